# SPDX-License-Identifier: MIT
"""Scans for Lightning, in an order that every epoch can be repeated with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from torchsparse_lite.collate import collate_fn
from torchsparse_lite.data import DATASETS, open_dataset
from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.data.cards import Card, load_card
from torchsparse_lite.data.joined import JoinedScans
from torchsparse_lite.data.mixing import MixTransform
from torchsparse_lite.data.samples import SegmentationSamples, labels_of
from torchsparse_lite.data.scan import IGNORE
from torchsparse_lite.data.transforms import Transform
from torchsparse_lite.errors import check_choice, needs_extra, refuse

__all__ = ["ScanData", "Source", "collate_samples"]

Source = ScanDataset | dict[str, Any]
"""A data set, or what :func:`~torchsparse_lite.data.open_dataset` takes: ``{"split": "train"}``,
with ``dataset`` and ``root`` where they are not those of the :class:`ScanData`."""


def collate_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch: points of all samples, their labels in one tensor, their names."""
    batch = collate_fn(list(samples))
    return {**batch, "labels": labels_of(batch)}


class ScanData(LightningDataModule):
    """Training, validation and prediction scans. Nothing is opened before it is needed.

    Processes of one training share the scans out by themselves. So make the Trainer with
    ``use_distributed_sampler=False`` and ``reload_dataloaders_every_n_epochs=1``, as ``tsl`` does.

    Args:
        root: folder of the data set.
        dataset: its name, a key of :data:`~torchsparse_lite.data.DATASETS`.
        train: what to train on, joined: data sets, or options such as ``{"split": "train"}``. An
            option ``root`` or ``dataset`` takes scans from elsewhere; with ``"repeats": 4`` they
            come four times in an epoch, each time augmented anew.
        val: what to validate on, in the same way; nothing for no validation.
        predict: what to label.
        features: of a point, as for :func:`~torchsparse_lite.data.points_of`.
        transforms: augmentations of training scans.
        mix: of two training scans; one of these is drawn.
        mix_probability: of mixing at all.
        batch_size: scans of a training batch; validation takes one at a time.
        workers: processes that read and augment; 0 reads in the training process.
        seed: of order and augmentation; both depend on the epoch and on nothing else that happened
            before, so a resumed run sees the same batches.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        dataset: str = "semantickitti",
        train: Sequence[Source] = ({"split": "train"},),
        val: Sequence[Source] = ({"split": "val"},),
        predict: Sequence[Source] = (),
        features: Sequence[str] = ("xyz", "remission"),
        transforms: Sequence[Transform] = (),
        mix: Sequence[MixTransform] = (),
        mix_probability: float = 0.5,
        batch_size: int = 2,
        workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("ScanData: dataset", dataset, DATASETS)
        if batch_size < 1:
            refuse("ScanData: batch_size", "at least 1", batch_size, "Give a number of scans.")
        if workers < 0:
            remedy = "workers=0 reads in the training process."
            refuse("ScanData: workers", "at least 0", workers, remedy)
        self.root = root
        self.dataset = dataset
        self.train = tuple(train)
        self.val = tuple(val)
        self.predict = tuple(predict)
        self.features = tuple(features)
        self.transforms = tuple(transforms)
        self.mix = tuple(mix)
        self.mix_probability = mix_probability
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self._opened: dict[str, ScanDataset] = {}

    @property
    def card(self) -> Card:
        """Of the first source."""
        first = next(iter((*self.train, *self.val, *self.predict)), {})
        if isinstance(first, ScanDataset):
            return first.card
        name = first.get("dataset", self.dataset)
        check_choice("ScanData: dataset", name, DATASETS)
        card = first.get("card") or DATASETS[name].card
        return card if isinstance(card, Card) else load_card(card)

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.card.classes)

    @property
    def num_classes(self) -> int:
        """Scores that a network has to give."""
        return self.card.num_classes

    def class_points(self, maximum: int = 200) -> Tensor:
        """Points of each class in the training scans.

        Args:
            maximum: scans that are counted, evenly spread over all.

        Returns:
            (K,) int64.
        """
        scans = self._open("train")
        rows = np.linspace(0, len(scans) - 1, min(maximum, len(scans))).round().astype(int)
        counts = np.zeros(IGNORE + 1, np.int64)
        bar = needs_extra("ScanData.class_points", "tqdm", "train").tqdm
        is_first = self._rank()[0] == 0
        for row in bar(rows.tolist(), "count classes", unit="scan", disable=not is_first):
            labels = scans[row].labels
            if labels is not None:
                counts += np.bincount(labels, minlength=IGNORE + 1)
        return torch.from_numpy(counts[: self.num_classes])

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the trainer's epoch, in which the last incomplete one is left out."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        samples = SegmentationSamples(
            self._open("train"),
            self.transforms,
            seed=self.seed,
            mix=self.mix,
            mix_probability=self.mix_probability,
            features=self.features,
        )
        samples.set_epoch(epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(samples)).tolist()
        rank, processes = self._rank()
        together = self.batch_size * processes
        if len(order) < together:
            refuse(
                "ScanData: train",
                f"at least {together} scans, a batch of {self.batch_size} for each process",
                len(order),
                "Give a smaller batch_size, or take each scan several times with 'repeats'.",
            )
        order = order[: len(order) // together * together]
        return self._loader(samples, order[rank::processes], self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """One scan at a time, as it is; nothing if there is nothing to validate on."""
        return self._plain("val") if self.val else []

    def predict_dataloader(self) -> DataLoader[Any]:
        """One scan at a time, as it is."""
        return self._plain("predict")

    @property
    def predict_scans(self) -> ScanDataset:
        """What is to be labelled, every point of it."""
        scans = self._open("predict")
        twice = [name for name, count in Counter(scans.names).items() if count > 1]
        if twice:
            remedy = "Predict one folder after the other, with an --out of its own."
            refuse("ScanData: predict", "scans of different names", f"{twice[0]} twice", remedy)
        return scans

    def _plain(self, part: str) -> DataLoader[Any]:
        """Every scan once, one at a time, shared among the processes."""
        samples = SegmentationSamples(self._open(part), features=self.features)
        rank, processes = self._rank()
        if len(samples) < processes:
            rule = f"at least a scan for each of {processes} processes"
            refuse(f"ScanData: {part}", rule, len(samples), "Start fewer, or give more scans.")
        return self._loader(samples, range(rank, len(samples), processes))

    def _loader(
        self, samples: SegmentationSamples, order: Sequence[int], batch_size: int = 1
    ) -> DataLoader[Any]:
        """Samples in this order; the same order however often it is asked for."""
        return DataLoader(
            samples,
            batch_size=batch_size,
            sampler=order,
            num_workers=self.workers,
            collate_fn=collate_samples,
        )

    def _rank(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _open(self, part: str) -> ScanDataset:
        """The data sets of ``train``, ``val`` or ``predict`` as one."""
        if part not in self._opened:
            sources = getattr(self, part)
            if not sources:
                remedy = "Give data sets, or options such as {'split': 'train'}."
                refuse(f"ScanData: {part}", "at least one data set", "none", remedy)
            opened = [dataset for source in sources for dataset in self._open_one(part, source)]
            for dataset in opened:
                self._check(part, dataset)
            self._opened[part] = opened[0] if len(opened) == 1 else JoinedScans(opened)
        return self._opened[part]

    def _check(self, part: str, dataset: ScanDataset) -> None:
        if dataset.card.classes != self.card.classes:
            refuse(
                f"ScanData: {part}",
                f"of the classes of the first source ({', '.join(self.classes)})",
                f"{dataset!r} with {', '.join(dataset.card.classes) or 'none'}",
                "Give a card or a label map that leads to the same classes.",
            )
        if part == "predict" and dataset.drop_invalid:
            rule, remedy = "without drop_invalid", "A label file has a label for every point."
            refuse("ScanData: predict", rule, "drop_invalid=True", remedy)

    def _open_one(self, part: str, source: Source) -> list[ScanDataset]:
        """The data set of a source, as often as it is wanted."""
        if isinstance(source, ScanDataset):
            return [source]
        options = {"dataset": self.dataset, "root": self.root, **source}
        name, repeats = options.pop("dataset"), options.pop("repeats", 1)
        if options["root"] is None:
            refuse("ScanData: root", "a folder", "none", "Say where the data set lies.")
        try:
            return [open_dataset(name, **options)] * repeats
        except TypeError as error:
            refuse(
                f"ScanData: {part}",
                f"options that the loader of {name} knows",
                f"{source} ({error})",
                "Give a split, sequences or files; see the loader's documentation.",
                error=TypeError,
            )
