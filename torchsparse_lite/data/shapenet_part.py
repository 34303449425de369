# SPDX-License-Identifier: MIT
"""ShapeNet-Part: objects of 16 categories with 50 parts, text files of points with normals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.files import need_file, need_folder, read_json, read_matrix
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["ShapeNetPart"]

_FUNCTION = "ShapeNetPart"


class ShapeNetPart(ScanDataset):
    """Objects, in the order of the published file lists.

    Args:
        root: folder with ``synsetoffset2category.txt``, ``train_test_split/*.json`` and a folder
            of text files (lines of x, y, z, nx, ny, nz, label) per category.
        split: ``train``, ``val``, ``test`` or ``trainval``.
        categories: such as ``"chair"``; by default all.
        options: ``card``, ``label_map`` and ``drop_invalid`` of
            :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: an unknown split or category, or a file that holds something else.

    Scans are named ``"02691156/1021a0914a7207aff927ed529ad90a11"``; they have normals, remission
    is 0. :meth:`category_of` names the category; ``card.groups`` lists its parts.

    Source: Yi et al., "A Scalable Active Framework for Region Annotation in 3D Shape Collections",
    SIGGRAPH Asia 2016; the version with normals of PointNet++.
    """

    default_card: ClassVar[str] = "shapenet_part"

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        categories: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        need_folder(f"{_FUNCTION}: root", self.root, self.card.source)
        check_choice(f"{_FUNCTION}: split", split, self.card.splits)
        for category in categories or ():
            check_choice(f"{_FUNCTION}: categories", category, self.card.groups)
        self._category = self._synsets()
        wanted = set(categories or self._category.values())
        for part in self.card.splits[split]:
            path = self.root / "train_test_split" / f"shuffled_{part}_file_list.json"
            for entry in read_json(_FUNCTION, path):
                name = "/".join(str(entry).split("/")[-2:])
                if self.category_of(name) in wanted:
                    self.names.append(name)

    def _synsets(self) -> dict[str, str]:
        path = self.root / "synsetoffset2category.txt"
        need_file(f"{_FUNCTION}: categories", path, self.card.source)
        result = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, synset = line.partition("\t") if "\t" in line else line.partition(" ")
            if line.strip():
                result[synset.strip()] = name.strip().lower()
        unknown = set(result.values()) - set(self.card.groups)
        if unknown:
            remedy = "Use a card with these categories."
            refuse(f"{_FUNCTION}: {path}", "known to the card", sorted(unknown), remedy)
        return result

    def category_of(self, name: str) -> str:
        """Category of the object of this name, such as ``"airplane"``.

        Raises:
            ValueError: the folder belongs to no category.
        """
        synset = name.split("/")[0]
        if synset not in self._category:
            rule = "in a folder that synsetoffset2category.txt lists"
            refuse(f"{_FUNCTION}: name", rule, name, "Copy the tables of the data set again.")
        return self._category[synset]

    def read(self, name: str) -> Scan:
        """The object at ``root/name.txt``."""
        path = self.root / f"{name}.txt"
        rows = read_matrix(_FUNCTION, path, 7)
        return Scan(
            xyz=rows[:, :3].astype(np.float32),
            remission=np.zeros(len(rows), np.float32),
            labels=self._labels(rows[:, 6].astype(np.int64), path),
            name=name,
            normals=rows[:, 3:6].astype(np.float32),
        )
