# SPDX-License-Identifier: MIT
"""Data sets, their cards, transforms, and samples for training.

A new data set is a card, a loader and a line in :data:`DATASETS`; the common tests enrol it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torchsparse_lite.data.airborne import AirborneTiles
from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.cards import Card, card_names, load_card
from torchsparse_lite.data.folder import ScanFolder
from torchsparse_lite.data.joined import JoinedScans
from torchsparse_lite.data.mixing import InstancePaste, LaserMix, MixTransform, PolarMix
from torchsparse_lite.data.nuscenes import NuScenesLidarseg
from torchsparse_lite.data.s3dis import S3DIS
from torchsparse_lite.data.samples import SegmentationSamples, labels_of, points_of
from torchsparse_lite.data.scan import IGNORE, Scan
from torchsparse_lite.data.scan_file import (
    read_label_file,
    read_prediction_file,
    read_scan_file,
    write_prediction_file,
)
from torchsparse_lite.data.semantickitti import SemanticKITTI
from torchsparse_lite.data.shapenet_part import ShapeNetPart
from torchsparse_lite.data.transforms import (
    Compose,
    DropPoints,
    Flip,
    GridSample,
    Jitter,
    LimitPoints,
    RangeCrop,
    RotateZ,
    Scale,
    Transform,
)
from torchsparse_lite.errors import check_choice

__all__ = [
    "DATASETS",
    "IGNORE",
    "S3DIS",
    "AirborneTiles",
    "Card",
    "Compose",
    "DatasetKind",
    "DropPoints",
    "Flip",
    "GridSample",
    "InstancePaste",
    "Jitter",
    "JoinedScans",
    "LaserMix",
    "LimitPoints",
    "MixTransform",
    "NuScenesLidarseg",
    "PolarMix",
    "RangeCrop",
    "RotateZ",
    "Scale",
    "Scan",
    "ScanDataset",
    "ScanFolder",
    "SegmentationSamples",
    "SemanticKITTI",
    "ShapeNetPart",
    "Transform",
    "card_names",
    "labels_of",
    "load_card",
    "open_dataset",
    "points_of",
    "read_label_file",
    "read_prediction_file",
    "read_scan_file",
    "write_prediction_file",
]


class DatasetKind(NamedTuple):
    """How a data set is read.

    Attributes:
        loader: of its layout.
        card: name of its card.
    """

    loader: type[ScanDataset]
    card: str


DATASETS: dict[str, DatasetKind] = {
    "semantickitti": DatasetKind(SemanticKITTI, "semantickitti"),
    "nuscenes_lidarseg": DatasetKind(NuScenesLidarseg, "nuscenes_lidarseg"),
    "nuscenes_range": DatasetKind(ScanFolder, "ika_11"),
    "ika_vlp32": DatasetKind(ScanFolder, "ika_11"),
    "rellis3d": DatasetKind(ScanFolder, "rellis3d"),
    "pandaset": DatasetKind(ScanFolder, "pandaset"),
    "ouster": DatasetKind(ScanFolder, "ouster"),
    "ign_lidarhd": DatasetKind(AirborneTiles, "ign_lidarhd"),
    "s3dis": DatasetKind(S3DIS, "s3dis"),
    "shapenet_part": DatasetKind(ShapeNetPart, "shapenet_part"),
}


def open_dataset(name: str, root: str | Path, **options: Any) -> ScanDataset:
    """A data set by its name.

    Args:
        name: a key of :data:`DATASETS`.
        root: folder of the data set.
        options: of its loader, such as ``split="train"``; ``card`` replaces the card.

    Raises:
        ValueError: no such data set.
    """
    check_choice("open_dataset: name", name, DATASETS)
    kind = DATASETS[name]
    return kind.loader(root, **{"card": kind.card, **options})
