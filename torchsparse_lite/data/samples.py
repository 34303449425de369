# SPDX-License-Identifier: MIT
"""From scans to what a network is trained on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.mixing import MixTransform
from torchsparse_lite.data.scan import IGNORE, Scan
from torchsparse_lite.data.transforms import Compose, Transform, check_probability
from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.points import PointTensor

__all__ = ["SegmentationSamples", "labels_of", "points_of"]

_FEATURES = ("xyz", "remission", "colors", "normals")


def points_of(scan: Scan, features: Sequence[str] = ("xyz", "remission")) -> PointTensor:
    """The points with their features, side by side.

    Args:
        scan: N points.
        features: which of xyz, remission, colors and normals, in this order.

    Returns:
        ``feats`` (N, C) float32, by default x, y, z, remission (C = 4); ``coords`` in metres.

    Raises:
        ValueError: an unknown feature, or one that the scan has not.
    """
    columns = []
    for name in features:
        check_choice("points_of: feature", name, _FEATURES)
        values = getattr(scan, name)
        if values is None:
            remedy = "Leave the feature out, or use a data set that has it."
            refuse(f"points_of: {name}", "there", f"{scan!r}", remedy)
        columns.append(values[:, None] if values.ndim == 1 else values)
    feats = np.concatenate(columns, axis=1)
    return PointTensor(torch.from_numpy(feats), torch.from_numpy(scan.xyz.copy()), batch_size=1)


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """Labels of all points of a batch of :class:`SegmentationSamples`, in the order of its points.

    Args:
        batch: what ``collate_fn`` made: ``batch["labels"]`` holds one tensor per scan.

    Returns:
        (N,) int64.
    """
    return torch.cat(list(batch["labels"]))


class SegmentationSamples(Dataset[dict[str, Any]]):
    """Scans of a data set, augmented, as points and labels. Collate with ``tsl.collate_fn``.

    Args:
        dataset: of scans.
        transforms: applied to each scan in order.
        seed: with the epoch and the index it decides all randomness of a sample, so that a sample
            is the same whichever worker makes it and however many there are.
        mix: transforms of two scans, applied before ``transforms``; one of them is drawn, and the
            other scan is drawn from the data set.
        mix_probability: of mixing at all.
        features: as for :func:`points_of`.

    A sample is ``{"points": PointTensor, "labels": (N,) int64, "name": str, "load_ms": float}``;
    labels of an unlabelled scan are 255 (ignored), ``load_ms`` is how long this took.

    Call :meth:`set_epoch` before each epoch; it reaches persistent workers too.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
        *,
        mix: Sequence[MixTransform] = (),
        mix_probability: float = 1.0,
        features: Sequence[str] = ("xyz", "remission"),
    ) -> None:
        if seed < 0:
            refuse("SegmentationSamples: seed", "at least 0", seed, "Use another seed.")
        check_probability("SegmentationSamples: mix_probability", mix_probability)
        self.dataset = dataset
        self.transforms = tuple(transforms)
        self.seed = seed
        self.mix = tuple(mix)
        self.mix_probability = mix_probability
        self.features = tuple(features)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the samples of this epoch from now on, in this process and in its workers."""
        if epoch < 0:
            remedy = "Count epochs from 0."
            refuse("SegmentationSamples.set_epoch: epoch", "at least 0", epoch, remedy)
        self._epoch.fill_(epoch)

    def generator(self, index: int) -> Generator:
        """The generator of sample ``index`` in this epoch."""
        return np.random.default_rng([self.seed, self.epoch, index])

    def __len__(self) -> int:
        return len(self.dataset)

    def scan(self, index: int) -> Scan:
        """The augmented scan that sample ``index`` is made of."""
        if not -len(self) <= index < len(self):
            message = f"sample {index} of {len(self)}"
            raise IndexError(message)  # ends iteration by the sequence protocol
        index %= len(self)
        rng = self.generator(index)
        scan = self.dataset[index]
        if self.mix and rng.random() < self.mix_probability:
            mix = self.mix[int(rng.integers(len(self.mix)))]
            scan = mix(scan, self.dataset[int(rng.integers(len(self.dataset)))], rng)
        return Compose(self.transforms)(scan, rng)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        scan = self.scan(index)
        labels = scan.labels
        if labels is None:
            labels = np.full(len(scan), IGNORE, np.int64)
        return {
            "points": points_of(scan, self.features),
            "labels": torch.from_numpy(labels.copy()),
            "name": scan.name,
            "load_ms": (time.perf_counter() - start) * 1e3,
        }
