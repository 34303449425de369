# SPDX-License-Identifier: MIT
"""What Lightning trains, validates and predicts with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from torchsparse_lite.data.transforms import rotation_z
from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.nn import fuse
from torchsparse_lite.points import PointTensor
from torchsparse_lite.train.losses import SegmentationLoss
from torchsparse_lite.train.metrics import IoU, confusion_matrix, iou_of
from torchsparse_lite.train.stages import StageTimes, time_stages

__all__ = ["Prediction", "Segmentation", "probabilities_of", "warmup_cosine"]

Batch = dict[str, Any]


class Prediction(NamedTuple):
    """Of one scan.

    Attributes:
        labels: (N,) int64 class of every point.
        times: where the time went.
    """

    labels: Tensor
    times: StageTimes


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: a line up to 1, then half a cosine down to 0.

    Args:
        step: optimiser steps done.
        warmup: steps of the line.
        total: steps in all.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Segmentation(LightningModule):
    """A network that scores points, with its loss, optimiser and metrics.

    Args:
        network: takes a PointTensor, gives (N, K) scores.
        classes: names of the K classes.
        loss: of scores and labels.
        optimizer: "sgd" (Nesterov, momentum 0.9) or "adamw".
        learning_rate: highest of the schedule.
        weight_decay: of parameters with more than one axis.
        decay_norms: of norms and biases too.
        warmup_steps: optimiser steps of linear warm-up before the cosine.
        seed: of dropout. Every batch starts from (seed, epoch, batch, rank), so a resumed run goes
            the same way as one that was never stopped.
        views: rotations about z that are averaged in validation and prediction; 1 is none.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        *,
        loss: SegmentationLoss | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        decay_norms: bool = False,
        warmup_steps: int = 0,
        seed: int = 0,
        views: int = 1,
    ) -> None:
        super().__init__()
        check_choice("Segmentation: optimizer", optimizer, ("sgd", "adamw"))
        if views < 1:
            refuse("Segmentation: views", "at least 1", views, "1 predicts once.")
        self.network = network
        self.classes = tuple(classes)
        self.loss = SegmentationLoss() if loss is None else loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.decay_norms = decay_norms
        self.warmup_steps = warmup_steps
        self.seed = seed
        self.views = views
        self.confusion = confusion_matrix(len(self.classes))
        self.last: IoU | None = None

    @property
    def scorer(self) -> nn.Module:
        """What computes scores."""
        return self.network

    def forward(self, points: PointTensor) -> Tensor:
        """(N, K) scores."""
        scores: Tensor = self.scorer(points)
        if scores.shape[1:] != (len(self.classes),):
            refuse(
                "Segmentation: network",
                f"one that gives {len(self.classes)} scores, one per class",
                f"one that gives {tuple(scores.shape[1:])}",
                f"Make it with num_classes={len(self.classes)}.",
            )
        return scores

    def probabilities(self, points: PointTensor) -> Tensor:
        """(N, K) class probabilities, averaged over ``views`` rotations about z."""
        total = probabilities_of(self(points))
        for view in range(1, self.views):
            turned = _rotated(points, 2 * math.pi * view / self.views)
            total = total + probabilities_of(self(turned))
        mean: Tensor = total / self.views
        return mean

    def on_fit_start(self) -> None:
        """Count the classes if the loss is to balance them."""
        if self.loss.balance:
            data: Any = getattr(self.trainer, "datamodule", None)
            if data is None:
                remedy = "Train with a ScanData, or give class_weights."
                refuse(
                    "Segmentation: loss.balance",
                    "0 without a data module",
                    self.loss.balance,
                    remedy,
                )
            self.loss.weigh(data.class_points().to(self.device))

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed what the step draws, so that it can be repeated."""
        entropy = (self.seed, self.current_epoch, batch_index, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        loss: Tensor = self.loss(self(batch["points"]), batch["labels"])
        size = batch["points"].batch_size
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count hits and misses."""
        prediction = self.probabilities(batch["points"]).argmax(1)
        self.confusion.update(prediction, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Mean IoU over the classes that are there, and each of them."""
        self.last = iou_of(self.confusion.compute())
        self.confusion.reset()
        self.log("val/miou", self.last.mean, prog_bar=True)
        self.log("val/accuracy", self.last.accuracy)
        for name, value, count in zip(
            self.classes, self.last.per_class.tolist(), self.last.points.tolist(), strict=True
        ):
            if count:
                self.log(f"val/iou/{name}", value)

    def predict_step(self, batch: Batch, batch_index: int) -> Prediction:
        """Class of every point, and the times."""
        points: PointTensor = batch["points"]
        labels, times = time_stages(
            lambda: self.probabilities(points).argmax(1),
            load=batch["load_ms"][0],
            device=points.device,
        )
        return Prediction(labels, times)

    def fuse(self) -> None:
        """Fold norms and activations into convolutions, see :func:`~torchsparse_lite.nn.fuse`."""
        self.network = fuse(self.network.eval())

    def configure_optimizers(self) -> Any:
        """Optimiser, and its schedule by steps."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in parameters if p.ndim > 1 or self.decay_norms]
        free = [p for p in parameters if p.ndim <= 1 and not self.decay_norms]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        if self.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=self.learning_rate, momentum=0.9, nesterov=True
            )
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def probabilities_of(scores: Tensor) -> Tensor:
    """(N, K), in the form whose gradient does not depend on the number of threads."""
    return scores.float().log_softmax(1).exp()


def _rotated(points: PointTensor, angle: float) -> PointTensor:
    """About z. Features that are the coordinates follow, wherever they stand."""
    turn = points.coords.new_tensor(rotation_z(angle)[:2, :2])
    coords = points.coords.clone()
    coords[:, 1:3] = points.coords[:, 1:3] @ turn.T
    feats, xyz = points.feats.clone(), points.xyz.to(points.dtype)
    for first in range(feats.shape[1] - 2):
        columns = slice(first, first + 3)
        if torch.equal(points.feats[:, columns], xyz):
            feats[:, columns] = coords[:, 1:].to(feats.dtype)
    return PointTensor(feats, coords, points.batch_size)
