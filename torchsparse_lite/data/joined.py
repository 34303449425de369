# SPDX-License-Identifier: MIT
"""JoinedScans: several data sets of the same classes, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.errors import refuse

__all__ = ["JoinedScans"]


class JoinedScans(ScanDataset):
    """The scans of several data sets as one, so that they can be drawn and mixed together.

    A data set that is given twice comes twice.

    Args:
        parts: data sets whose cards have the same classes in the same order.

    Raises:
        ValueError: no data set, or classes that differ.
    """

    def __init__(self, parts: Sequence[ScanDataset]) -> None:
        if not parts:
            refuse("JoinedScans: parts", "at least one data set", "none", "Give one.")
        first = parts[0]
        for part in parts:
            if part.card.classes != first.card.classes:
                refuse(
                    "JoinedScans: parts",
                    f"of the classes of the first ({', '.join(first.card.classes)})",
                    f"{part!r} with {', '.join(part.card.classes)}",
                    "Give cards or label maps that lead to the same classes.",
                )
        super().__init__(first.root, card=first.card, label_map=first.label_map)
        self.parts = tuple(parts)
        self.names = [name for part in parts for name in part.names]
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, index: int) -> Scan:
        if not -len(self) <= index < len(self):
            message = f"scan {index} of {len(self)}"
            raise IndexError(message)  # ends iteration by the sequence protocol
        index %= len(self)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - int(self._ends[part]) + len(self.parts[part])]

    def write_prediction(
        self, folder: str | Path, name: str, labels: npt.NDArray[np.int64]
    ) -> Path:
        """Write a prediction where and how the part that has this scan wants it."""
        part = next(part for part in self.parts if name in part.names)
        return part.write_prediction(folder, name, labels)

    def __repr__(self) -> str:
        return f"JoinedScans({len(self)} scans of {len(self.parts)} data sets)"
