# SPDX-License-Identifier: MIT
"""What training minimises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from torchsparse_lite.data.scan import IGNORE
from torchsparse_lite.errors import check_shape, refuse

__all__ = ["SegmentationLoss", "lovasz_softmax"]


def lovasz_softmax(scores: Tensor, labels: Tensor, *, ignored: int = IGNORE) -> Tensor:
    """Lovasz extension of one minus the mean IoU of the classes that the labels hold.

    Args:
        scores: (N, K) floating, before the softmax.
        labels: (N,) int64 in 0..K-1, or ``ignored``.
        ignored: label of points that do not count.

    Returns:
        Scalar in [0, 1]; zero, with a gradient of zero, where no point counts.

    Source: Berman et al., "The Lovasz-Softmax loss", CVPR 2018, algorithm 1.
    """
    check_shape("lovasz_softmax: scores", scores, (len(labels), None), "One row per label.")
    counted = labels != ignored
    # The gradient of softmax itself depends on the number of threads.
    probabilities = scores[counted].float().log_softmax(1).exp()
    present = labels[counted].unique()
    if len(present) == 0:
        return scores.sum() * 0.0
    truth = labels[counted] == present.unsqueeze(1)
    errors = (truth.float() - probabilities.t().index_select(0, present)).abs()
    loss: Tensor = (errors * _slope(errors.detach(), truth)).sum(1).mean()
    return loss


def _slope(errors: Tensor, truth: Tensor) -> Tensor:
    """(C, N): how much the IoU of each class falls with the error of each point.

    Args:
        errors: (C, N) float32 in 0..1.
        truth: (C, N) bool, whether the point is of the class.
    """
    order = _descending(errors)
    truth = truth.gather(1, order)
    total = truth.sum(1, keepdim=True)
    intersection = total - truth.cumsum(1)
    union = total + (~truth).cumsum(1)
    jaccard = 1.0 - intersection.float() / union.float()
    steps = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    return steps.scatter(1, order, steps)


def _descending(errors: Tensor) -> Tensor:
    """(C, N) int64: places of each row's values from the largest down, equals as they come.

    On a CPU NumPy sorts integers many times faster than torch sorts float32, and values from 0 on
    rise with their bits.
    """
    if errors.device.type != "cpu":
        return errors.sort(dim=1, descending=True, stable=True).indices
    falling = torch.iinfo(torch.int32).max - errors.contiguous().view(torch.int32)
    keys = (falling.long() << 32) | torch.arange(errors.shape[1], device=errors.device)
    keys.numpy().sort(axis=1)
    return keys & 0xFFFFFFFF


class SegmentationLoss(nn.Module):
    """Cross-entropy, and Lovasz-softmax if wanted.

    Args:
        lovasz: weight of the Lovasz term beside the cross-entropy.
        class_weights: (K,) factors of the classes in the cross-entropy, or None.
        balance: instead of ``class_weights``: a factor is the share of the class in the points, to
            the power ``-balance``; 0 leaves all alike, 0.5 is usual. Training counts the points.
        label_smoothing: of the cross-entropy, 0..1.
    """

    weight: Tensor | None

    def __init__(
        self,
        lovasz: float = 0.0,
        class_weights: Sequence[float] | None = None,
        balance: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not lovasz >= 0:
            refuse("SegmentationLoss: lovasz", "at least 0", lovasz, "0 leaves the term out.")
        factors = list(class_weights or ())
        if not all(factor >= 0 for factor in factors):
            remedy = "0 leaves a class out."
            refuse("SegmentationLoss: class_weights", "at least 0", factors, remedy)
        if not 0.0 <= balance <= 1.0 or (balance and class_weights is not None):
            remedy = "Give one of class_weights and balance."
            refuse(
                "SegmentationLoss: balance", "from 0 to 1, without class_weights", balance, remedy
            )
        self.lovasz = lovasz
        self.balance = balance
        self.label_smoothing = label_smoothing
        weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)

    def weigh(self, class_points: Tensor) -> None:
        """Set the factors of the classes by ``balance``.

        Args:
            class_points: (K,) points of each class; one without any counts like one with a point.
        """
        weight = class_points.double().clamp_min(1) ** -self.balance
        self.weight = (weight / weight.mean()).to(torch.float32)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean over the points that count.

        Args:
            scores: (N, K) floating.
            labels: (N,) int64, 255 where ignored.

        Returns:
            Scalar; zero, with a gradient of zero, where no point counts.
        """
        # Of points whose classes all weigh nothing, the cross-entropy would be 0 / 0.
        counted = labels[labels != IGNORE]
        loss = scores.sum() * 0.0
        if not len(counted):
            return loss
        if self.weight is None or bool(self.weight[counted].any()):
            loss = nnf.cross_entropy(
                scores.float(),
                labels,
                self.weight,
                ignore_index=IGNORE,
                label_smoothing=self.label_smoothing,
            )
        if self.lovasz:
            loss = loss + self.lovasz * lovasz_softmax(scores, labels)
        return loss
