# SPDX-License-Identifier: MIT
"""Mean IoU that does not count classes which are not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from torchsparse_lite.data.scan import IGNORE

__all__ = ["IoU", "confusion_matrix", "iou_of"]


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Counts of points by true and predicted class, added up over batches and processes."""
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


@dataclass(frozen=True)
class IoU:
    """Scores of a segmentation.

    Attributes:
        per_class: (K,) intersection over union, NaN for classes that no label holds.
        points: (K,) labelled points of each class.
        mean: over the classes that labels hold; NaN without any.
        accuracy: share of the labelled points that are right; NaN without any.
    """

    per_class: Tensor
    points: Tensor
    mean: float
    accuracy: float

    def table(self, classes: Sequence[str]) -> str:
        """One line per class.

        Args:
            classes: their names.
        """
        lines = [f"{'class':24s} {'IoU':>7s} {'points':>10s}"]
        for name, value, count in zip(
            classes, self.per_class.tolist(), self.points.tolist(), strict=True
        ):
            shown = "absent" if count == 0 else f"{value:.4f}"
            lines.append(f"{name:24s} {shown:>7s} {count:10d}")
        present = int((self.points > 0).sum())
        lines.append(f"mean over {present} classes   {self.mean:.4f}")
        lines.append(f"accuracy                 {self.accuracy:.4f}")
        return "\n".join(lines)

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """For JSON: mean IoU, accuracy, and the IoU of the classes that are there.

        Args:
            classes: their names.
        """
        rows = zip(classes, self.per_class.tolist(), self.points.tolist(), strict=True)
        return {
            "miou": self.mean,
            "accuracy": self.accuracy,
            "iou": {name: value for name, value, count in rows if count},
        }


def iou_of(confusion: Tensor) -> IoU:
    """Scores of a confusion matrix.

    Args:
        confusion: (K, K) counts, rows are true classes, columns predictions.
    """
    counts = confusion.long()
    hits, points = counts.diagonal(), counts.sum(1)
    union = points + counts.sum(0) - hits
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    per_class = torch.where(points > 0, hits.double() / union.clamp_min(1), nan)
    total = int(points.sum())
    return IoU(
        per_class,
        points,
        float(per_class[points > 0].mean()) if total else float("nan"),
        int(hits.sum()) / total if total else float("nan"),
    )
