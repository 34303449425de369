# SPDX-License-Identifier: MIT
"""Pooling layers.

Empty sites never take part: an average divides by the occupied sites, and a maximum of negative
numbers is negative.
"""

from __future__ import annotations

from torch import Tensor, nn

from torchsparse_lite.nn import functional as F
from torchsparse_lite.nn.window import Size, Target, Window, Windowed
from torchsparse_lite.tensor import SparseTensor

__all__ = [
    "AvgPool3d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalSumPool",
    "MaxPool3d",
    "SumPool3d",
    "Unpool3d",
    "Upsample",
]


class _Pool3d(Windowed):
    """What the windowed pools share; see :class:`MaxPool3d`."""

    function: str

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size | None = None,
        dilation: Size = 1,
        *,
        submanifold: bool | None = None,
        rule: str = "full",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.window = Window.of(
            name, kernel_size, stride, padding, dilation, submanifold=submanifold, rule=rule
        )

    def forward(self, x: SparseTensor, target: Target | None = None) -> SparseTensor:
        """Pool; ``target`` gives the output sites where wanted."""
        return F.pool(self.function, x, self.window, target)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool3d(_Pool3d):
    """Maximum over the occupied sites of each window.

    Args:
        kernel_size: taps per axis.
        stride: None means ``kernel_size``.
        padding: None means "same" if submanifold and else 0.
        dilation: fine sites between taps.
        submanifold: outputs are the inputs' sites; None means "if stride is 1".
        rule: "full" or "cell", how a strided window chooses its sites.
    """

    function = "max_pool3d"


class AvgPool3d(_Pool3d):
    """Mean over the occupied sites of each window. Arguments as for :class:`MaxPool3d`."""

    function = "avg_pool3d"


class SumPool3d(_Pool3d):
    """Sum over the occupied sites of each window. Arguments as for :class:`MaxPool3d`."""

    function = "sum_pool3d"


class Unpool3d(Windowed):
    """Every finer site takes the mean of the coarse sites whose windows hold it.

    Args:
        kernel_size: window of the pooling to undo.
        stride: None means ``kernel_size``.
    """

    def __init__(self, kernel_size: Size, stride: Size | None = None) -> None:
        super().__init__()
        self.window = Window.of("Unpool3d", kernel_size, stride, transposed=True)

    def forward(self, x: SparseTensor, target: Target | None = None) -> SparseTensor:
        """Unpool onto the sites that ``x`` was made from, or onto ``target``."""
        return F.pool("unpool3d", x, self.window, target)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class Upsample(nn.Module):
    """Nearest neighbour: every finer site takes the features of the cell it lies in.

    Args:
        scale_factor: finer sites per coarse site.
    """

    def __init__(self, scale_factor: Size = 2) -> None:
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x: SparseTensor, target: Target | None = None) -> SparseTensor:
        """Upsample onto the sites that ``x`` was made from, or onto ``target``."""
        return F.upsample(x, self.scale_factor, target=target)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"scale_factor={self.scale_factor}"


class GlobalMaxPool(nn.Module):
    """Maximum per batch element, (batch_size, C)."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Pool all sites of each element."""
        return F.global_max_pool(x)


class GlobalAvgPool(nn.Module):
    """Mean per batch element, (batch_size, C)."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Pool all sites of each element."""
        return F.global_avg_pool(x)


class GlobalSumPool(nn.Module):
    """Sum per batch element, (batch_size, C)."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Pool all sites of each element."""
        return F.global_sum_pool(x)
