# SPDX-License-Identifier: MIT
"""The residual block that the networks are built from."""

from __future__ import annotations

from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.nn.compose import conv_norm, conv_norm_relu
from torchsparse_lite.tensor import SparseTensor

__all__ = ["ResidualBlock"]


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut: ``relu(second(relu(first(x))) + shortcut(x))``.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        mid_channels: between the two convolutions; ``out_channels`` if None.

    Source: He et al., "Deep Residual Learning", CVPR 2016, on the cells of Choy et al., "4D
    Spatio-Temporal ConvNets", CVPR 2019.
    """

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int | None = None
    ) -> None:
        super().__init__()
        mid_channels = out_channels if mid_channels is None else mid_channels
        self.first = conv_norm_relu(in_channels, mid_channels)
        self.second = conv_norm(mid_channels, out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv_norm(in_channels, out_channels, 1)
        )
        self.relu = spnn.ReLU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, in_channels) to (N, out_channels) at the same cells."""
        result: SparseTensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return result

    def fused(self) -> nn.Module:
        """What :func:`~torchsparse_lite.nn.fuse` puts here once the parts are fused."""
        return _FusedResidualBlock(self)


class _FusedResidualBlock(nn.Module):
    """Shortcut and last ReLU join the pass of the second convolution."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.first = block.first
        (self.second,) = block.second
        self.shortcut = block.shortcut

    def forward(self, x: SparseTensor) -> SparseTensor:
        result: SparseTensor = self.second(self.first(x), residual=self.shortcut(x), relu=True)
        return result
