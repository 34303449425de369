# SPDX-License-Identifier: MIT
"""Training of supernets, and scores of their subnets."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.grids import SharedGrids
from torchsparse_lite.nas.sampling import ArchSampler
from torchsparse_lite.nas.supernet import Supernet
from torchsparse_lite.nn import fuse
from torchsparse_lite.points import PointTensor
from torchsparse_lite.train.metrics import IoU, confusion_matrix, iou_of
from torchsparse_lite.train.module import Batch, Segmentation, probabilities_of
from torchsparse_lite.train.processes import check_strategy, share_statistics
from torchsparse_lite.train.sorting import check_averages, sort_supernet, why_unsorted

__all__ = ["SubnetScores", "SupernetSegmentation"]

_CALIBRATION_BATCHES = 8


class SupernetSegmentation(Segmentation):
    """Trains many networks in one set of weights.

    A step draws subnets, each process its own, and lowers the mean of their losses. With a
    sandwich, the largest one learns from the labels and the others from it as well (in-place
    distillation). Validation is that of the largest subnet, its norms recalibrated with the last
    batches of the epoch, those of all processes.

    Several processes need the strategy ``ddp_find_unused_parameters_true``: a weight that no
    subnet of a process has counts there as one with a zero gradient. They cannot synchronize
    their norms (``sync_batchnorm``), as they run different ones.

    In a course that draws numbers of channels only after other things were trained, such as
    "ofa", the shared channels are put in order of their importance in the largest subnet before
    the first step with fewer of them, once: what subnets keep are the leading ones. The
    optimizer's moments and averaged weights (``WeightAveraging`` of Lightning) change places with
    them. It is not done, and a warning says so, in a space of several structures, where other
    channels go together in each, and for networks that are no SPVCNN.

    Args:
        network: the supernet.
        classes: names of the K classes.
        phases: of the training, one of :data:`~torchsparse_lite.nas.sampling.PHASES`.
        subnets: drawn in each step.
        sandwich: train the largest and the smallest in each step, too.
        distill: share of the largest subnet's probabilities in what the others learn, from 0 to 1.
        options: those of :class:`Segmentation`.
    """

    def __init__(
        self,
        network: Supernet,
        classes: Sequence[str],
        *,
        phases: str = "all",
        subnets: int = 1,
        sandwich: bool = False,
        distill: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(network, classes, **options)
        if not 0 <= distill <= 1:
            remedy = "0 learns from the labels alone."
            refuse("SupernetSegmentation: distill", "from 0 to 1", distill, remedy)
        self.sampler = ArchSampler(
            network.space, phases, subnets, sandwich=sandwich, seed=self.seed
        )
        self.distill = distill
        self._recent: deque[PointTensor] = deque(maxlen=_CALIBRATION_BATCHES)
        self._is_widened = False

    @property
    def supernet(self) -> Supernet:
        """The shared weights."""
        return cast("Supernet", self.network)

    def setup(self, stage: str) -> None:
        """Refuse to train where processes would wait for each other for ever.

        Args:
            stage: as Lightning calls it.

        Raises:
            ValueError: the trainer's strategy, or its synchronized norms, cannot do it.
        """
        if stage == "fit":
            check_strategy(self.trainer.strategy)

    def on_fit_start(self) -> None:
        """Say so if channels should be sorted later on and cannot be.

        Raises:
            ValueError: a callback holds weights that cannot be sorted with them.
        """
        super().on_fit_start()
        if self.sampler.widening is not None:
            reason = why_unsorted(self.supernet)
            if reason:
                rank_zero_warn(f"SupernetSegmentation: channels will not be sorted: {reason}")
            else:
                check_averages(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Forget batches of the epoch before, as a run that goes on from there does."""
        self._recent.clear()

    @property
    def progress(self) -> float:
        """Share of the training's steps that are done."""
        return self.global_step / int(self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed the step; before the first one with fewer channels, sort them."""
        super().on_train_batch_start(batch, batch_index)
        first = self.sampler.widening
        if first is None or self._is_widened or self.sampler.phase_at(self.progress) < first:
            return
        self._is_widened = True
        if not why_unsorted(self.supernet):
            sort_supernet(self.supernet, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep whether channels were sorted, so that it is done once however often one resumes."""
        checkpoint["is_widened"] = self._is_widened

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know it again. A run that was begun without sorting ends without."""
        self._is_widened = checkpoint.get("is_widened", True)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of the step's subnets."""
        points, labels = batch["points"], batch["labels"]
        self._recent.append(points)
        shared = SharedGrids(points)
        archs = self.sampler.draw(self.global_step, self.progress, self.global_rank)
        teacher: Tensor | None = None
        losses = []
        for arch in archs:
            self.supernet.set_active_subnet(arch)
            scores = self.supernet(*shared.inputs(self.supernet.subnet))
            loss = self.loss(scores, labels)
            if teacher is not None and self.distill:
                soft = nn.functional.cross_entropy(scores, teacher)
                loss = (1 - self.distill) * loss + self.distill * soft
            losses.append(loss)
            if self.sampler.sandwich and teacher is None:
                teacher = probabilities_of(scores.detach())
        mean = torch.stack(losses).mean()
        self.log("train/loss", mean, prog_bar=True, batch_size=points.batch_size)
        self.log("train/loss_first", losses[0], batch_size=points.batch_size)
        return mean

    def on_validation_epoch_start(self) -> None:
        """Take the largest subnet out, and give its norms statistics of their own."""
        self.supernet.set_active_subnet(self.supernet.space.largest)
        subnet = self.supernet.get_active_subnet()
        if self._recent:
            recalibrate(subnet, [(points,) for points in self._recent])
            share_statistics(subnet, self.trainer.strategy)
        self.__dict__["_evaluated"] = subnet.eval()  # no child: averaged weights are not for it

    @property
    def scorer(self) -> nn.Module:
        """In validation the subnet that was taken out."""
        evaluated: nn.Module | None = self.__dict__.get("_evaluated")
        return self.supernet if evaluated is None else evaluated

    def on_validation_epoch_end(self) -> None:
        """The scores."""
        super().on_validation_epoch_end()
        self.__dict__["_evaluated"] = None


class SubnetScores:
    """Mean IoU of subnets, for a search.

    The scans' kernel maps are kept and serve all subnets.

    Args:
        supernet: trained; the scans are where it is.
        calibration: batches of training points for the statistics of norms.
        validation: points of a scan, and the label of each.
        num_classes: K.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: Sequence[PointTensor],
        validation: Sequence[tuple[PointTensor, Tensor]],
        num_classes: int,
    ) -> None:
        if not validation:
            remedy = "Hold scans out of the training."
            refuse("SubnetScores: validation", "at least one scan", "none", remedy)
        self.supernet = supernet
        self.num_classes = num_classes
        self._calibration = [SharedGrids(points) for points in calibration]
        self._validation = [(SharedGrids(points), labels) for points, labels in validation]

    def network(self, arch: Arch) -> nn.Module:
        """The subnet as a network of its own, its norms recalibrated, in evaluation.

        Args:
            arch: of the space; it stays the supernet's active one.
        """
        self.supernet.set_active_subnet(arch)
        network = self.supernet.get_active_subnet()
        recalibrate(network, (grids.inputs(network) for grids in self._calibration))
        return network

    def scores(self, network: nn.Module) -> IoU:
        """Of a network on the validation scans; a copy of it is fused for this.

        Args:
            network: an SPVCNN, or one that takes a PointTensor; gives scores (N, K).
        """
        confusion = confusion_matrix(self.num_classes).to(self._validation[0][1].device)
        network = fuse(network)
        with torch.inference_mode():
            for grids, labels in self._validation:
                confusion.update(network(*grids.inputs(network)).argmax(1), labels)
        return iou_of(confusion.compute())
