# SPDX-License-Identifier: MIT
"""Airborne tiles: LAS and LAZ with ASPRS classes, as IGN and AHN publish them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.files import need_file, need_folder, remission_of
from torchsparse_lite.data.scan import Array, Scan
from torchsparse_lite.errors import check_choice, needs_extra, refuse

__all__ = ["AirborneTiles"]

_FUNCTION = "AirborneTiles"
_SUFFIXES = (".laz", ".las", ".npz")
_ARRAYS = ("xyz", "offset", "intensity", "classification")


class AirborneTiles(ScanDataset):
    """Tiles of one folder, in order of their names.

    A tile's coordinates on the map are large (millions of metres) and would lose centimetres in
    float32. So ``xyz`` counts from a whole metre at the tile's lower corner, and ``pose`` moves it
    back to the map.

    Args:
        root: folder of the tiles.
        files: names of tiles without suffix; by default all of the folder.
        suffix: ``.laz`` or ``.las`` (needs the extra ``las``), or ``.npz`` with arrays xyz (N, 3),
            offset (3,), intensity (N,) and classification (N,).
        options: ``card``, ``label_map`` (``official`` for IGN, ``ahn`` for AHN) and
            ``drop_invalid`` of :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder or file is missing, or there is no tile.
        RuntimeError: laspy or lazrs is not installed.
        ValueError: a file is damaged.
    """

    default_card: ClassVar[str] = "ign_lidarhd"

    def __init__(
        self,
        root: str | Path,
        *,
        files: Sequence[str] | None = None,
        suffix: str = ".laz",
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        check_choice(f"{_FUNCTION}: suffix", suffix, _SUFFIXES)
        self.suffix = suffix
        folder = need_folder(f"{_FUNCTION}: root", self.root, self.card.source)
        self.names = (
            sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
            if files is None
            else list(files)
        )
        if not self.names:
            remedy = f"Pass the suffix that the tiles have, one of {', '.join(_SUFFIXES)}."
            rule = f"a place of {suffix} tiles"
            refuse(f"{_FUNCTION}: {folder}", rule, "none", remedy, error=FileNotFoundError)
        for name in self.names:
            need_file(f"{_FUNCTION}: files", folder / f"{name}{suffix}", self.card.source)

    def read(self, name: str) -> Scan:
        """The tile of this name."""
        path = self.root / f"{name}{self.suffix}"
        tile = _read_npz(path) if self.suffix == ".npz" else _read_las(path)
        pose = np.eye(4)
        pose[:3, 3] = tile["offset"]
        return Scan(
            xyz=np.ascontiguousarray(tile["xyz"], np.float32),
            remission=remission_of(_FUNCTION, path, tile["intensity"], self.card.remission_max),
            labels=self._labels(tile["classification"], path),
            name=name,
            pose=pose,
        )


def _read_npz(path: Path) -> Mapping[str, Array]:
    remedy = f"Save arrays {', '.join(_ARRAYS)} with numpy.savez_compressed."
    try:
        with np.load(path, allow_pickle=False) as content:
            tile = {name: content[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError) as broken:
        refuse(f"{_FUNCTION}: {path}", "an .npz tile", str(broken), remedy)
    counts = {len(tile[name]) for name in _ARRAYS if name != "offset"}
    if len(counts) != 1 or tile["xyz"].shape[1:] != (3,) or tile["offset"].shape != (3,):
        shapes = {name: array.shape for name, array in tile.items()}
        refuse(f"{_FUNCTION}: {path}", "of one row per point", shapes, remedy)
    return tile


def _read_las(path: Path) -> Mapping[str, Array]:
    laspy = needs_extra(_FUNCTION, "laspy", "las")
    lazrs = needs_extra(_FUNCTION, "lazrs", "las")
    try:
        tile = laspy.read(path)
    except (laspy.errors.LaspyException, lazrs.LazrsError, ValueError, OSError) as broken:
        refuse(
            f"{_FUNCTION}: {path}",
            "a LAS or LAZ file",
            f"{type(broken).__name__}: {broken}",
            "The file is damaged: download it again.",
        )
    on_map: npt.NDArray[np.float64] = np.asarray(tile.xyz)
    offset = np.floor(on_map.min(axis=0)) if len(on_map) else np.zeros(3)
    return {
        "xyz": on_map - offset,
        "offset": offset,
        "intensity": np.asarray(tile.intensity),
        "classification": np.asarray(tile.classification),
    }
