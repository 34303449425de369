# SPDX-License-Identifier: MIT
"""ScanDataset: what every loader is, a sequence of scans in a fixed order."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from torchsparse_lite.data.cards import Card, load_card
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.data.scan_file import write_prediction_file
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["ScanDataset", "chosen"]


class ScanDataset(Dataset[Scan]):
    """Scans in a fixed order. A loader lists ``names`` when it is made and implements ``read``.

    Args:
        root: folder of the data set.
        card: the card, its name or the path of one's own; by default the loader's.
        label_map: which of the card's label maps gives train ids.
        drop_invalid: leave points out whose coordinates are NaN or infinite, instead of raising.

    Attributes:
        root: folder of the data set.
        card: classes, colours, label maps, splits.
        names: name of each scan, in order.
    """

    default_card: ClassVar[str] = ""

    def __init__(
        self,
        root: str | Path,
        *,
        card: Card | str | Path | None = None,
        label_map: str = "official",
        drop_invalid: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.card = card if isinstance(card, Card) else load_card(card or self.default_card)
        self.label_map = label_map
        self.drop_invalid = drop_invalid
        self.names: list[str] = []
        if self.card.label_maps:
            check_choice(f"{type(self).__name__}: label_map", label_map, self.card.label_maps)

    def read(self, name: str) -> Scan:
        """The scan of this name as it is in the files."""
        raise NotImplementedError

    def prediction_path(self, name: str) -> Path:
        """Where a prediction for this scan belongs, below a folder of predictions."""
        return Path(f"{name}.label")

    def write_prediction(
        self, folder: str | Path, name: str, labels: npt.NDArray[np.int64]
    ) -> Path:
        """Write a prediction as the benchmark of the data set reads it.

        Args:
            folder: of predictions.
            name: of the scan.
            labels: (N,) train ids, one per point of the scan, 255 for none.

        Returns:
            The path of the file.
        """
        return write_prediction_file(Path(folder) / self.prediction_path(name), labels, self.card)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scan:
        name = self.names[index]
        scan = self.read(name)
        is_valid = np.isfinite(scan.xyz).all(axis=1)
        is_valid &= np.isfinite(scan.remission)
        if is_valid.all():
            return scan
        if self.drop_invalid:
            return scan.take(is_valid)
        rows = np.flatnonzero(~is_valid)
        refuse(
            f"{type(self).__name__}: points of scan {name} in {self.root}",
            "finite",
            f"NaN or infinity in {len(rows)} rows ({', '.join(map(str, rows[:8]))}"
            + (", ...)" if len(rows) > 8 else ")"),
            "Leave these points out with drop_invalid=True, or copy the file again.",
        )

    def _labels(self, raw: npt.NDArray[np.integer], file: str | Path) -> npt.NDArray[np.int64]:
        return self.card.to_train(raw, self.label_map, file=file)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {len(self)} scans)"


def chosen(where: str, **choices: object) -> str:
    """The name of the one choice that is not None.

    Raises:
        ValueError: none or several were given.
    """
    given = [name for name, value in choices.items() if value is not None]
    if len(given) != 1:
        actual = " and ".join(given) or "none"
        refuse(
            f"{where}: choice", f"exactly one of {', '.join(choices)}", actual, "Pass one of them."
        )
    return given[0]
