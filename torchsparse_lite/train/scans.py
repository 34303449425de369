# SPDX-License-Identifier: MIT
"""Scans for Lightning, in an order that every epoch can be repeated with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Sampler

from torchsparse_lite.collate import collate_fn
from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.mixing import MixTransform
from torchsparse_lite.data.samples import SegmentationSamples, labels_of
from torchsparse_lite.data.transforms import Transform
from torchsparse_lite.errors import refuse

__all__ = ["ScanData", "collate_samples"]


def collate_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch: points of all samples, their labels in one tensor, their names."""
    batch = collate_fn(list(samples))
    return {**batch, "labels": labels_of(batch)}


class _Shuffled(Sampler[int]):
    """The same order each time it is asked: a resumed run may ask once more than another."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        yield from torch.randperm(self.count, generator=generator).tolist()

    def __len__(self) -> int:
        return self.count


class ScanData(LightningDataModule):
    """Training, validation and prediction scans.

    Args:
        train: data sets to train on, put together.
        val: data set to validate on.
        predict: data set to label.
        transforms: augmentations of training scans.
        mix: of two training scans.
        mix_probability: of mixing at all.
        repeats: how often a training scan comes in an epoch, each time augmented anew.
        batch_size: scans of a training batch; validation takes one at a time.
        workers: processes that read and augment.
        seed: of order and augmentation; both depend on the epoch and on nothing else that happened
            before, so a resumed run sees the same batches.
    """

    def __init__(
        self,
        train: Sequence[ScanDataset] = (),
        val: ScanDataset | None = None,
        predict: ScanDataset | None = None,
        *,
        transforms: Sequence[Transform] = (),
        mix: Sequence[MixTransform] = (),
        mix_probability: float = 0.5,
        repeats: int = 1,
        batch_size: int = 2,
        workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(batch_size, repeats) < 1 or workers < 0:
            refuse(
                "ScanData: batch_size",
                "at least 1, as repeats, with workers at least 0",
                f"{batch_size}, {repeats} and {workers}",
                "workers=0 reads in the training process.",
            )
        self.train_samples = [
            SegmentationSamples(
                dataset,
                transforms,
                seed=seed + number * repeats + repeat,
                mix=mix,
                mix_probability=mix_probability,
            )
            for number, dataset in enumerate(train)
            for repeat in range(repeats)
        ]
        self.val = val
        self.predict = predict
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the trainer's epoch; use ``reload_dataloaders_every_n_epochs=1``."""
        if not self.train_samples:
            refuse("ScanData: train", "at least one data set", "none", "Give scans to train on.")
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        for samples in self.train_samples:
            samples.set_epoch(epoch)
        scans: ConcatDataset[Any] = ConcatDataset(self.train_samples)
        return DataLoader(
            scans,
            self.batch_size,
            sampler=_Shuffled(len(scans), hash((self.seed, epoch)) & 0x7FFFFFFF),
            num_workers=self.workers,
            collate_fn=collate_samples,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """One scan at a time, as it is; nothing if there is no such data set."""
        return [] if self.val is None else self._plain(self.val)

    def predict_dataloader(self) -> DataLoader[Any]:
        """One scan at a time, as it is."""
        if self.predict is None:
            refuse("ScanData: predict", "a data set", "none", "Give scans to label.")
        return self._plain(self.predict)

    def _plain(self, dataset: ScanDataset) -> DataLoader[Any]:
        samples = SegmentationSamples(dataset)
        return DataLoader(samples, 1, num_workers=self.workers, collate_fn=collate_samples)
