# SPDX-License-Identifier: MIT
"""The usual sequences of layers: convolution or linear layer, batch norm, ReLU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchsparse_lite.nn.activation import ReLU
from torchsparse_lite.nn.container import Sequential
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.linear import Linear
from torchsparse_lite.nn.norm import BatchNorm
from torchsparse_lite.nn.window import Size

__all__ = ["conv_norm", "conv_norm_relu", "shared_mlp"]


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: Size = 3,
    *,
    stride: Size = 1,
    padding: Size | None = None,
    groups: int = 1,
    taps: Iterable[int] | None = None,
    up: bool = False,
) -> Sequential:
    """Convolution without bias, then batch norm.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: taps per axis.
        stride: fine cells per coarse cell.
        padding: as for :class:`~torchsparse_lite.nn.Conv3d`.
        groups: of channels.
        taps: as for :class:`~torchsparse_lite.nn.Conv3d`.
        up: transposed, onto the finer cells that the input was made from.
    """
    conv = Conv3d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        groups=groups,
        bias=False,
        transposed=up,
        taps=taps,
    )
    return Sequential(conv, BatchNorm(out_channels))


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: Size = 3, **options: Any
) -> Sequential:
    """:func:`conv_norm` with these options, then ReLU."""
    return Sequential(*conv_norm(in_channels, out_channels, kernel_size, **options), ReLU())


def shared_mlp(in_channels: int, *out_channels: int) -> Sequential:
    """Linear layer, batch norm and ReLU, the same for every point, as often as there are widths.

    Args:
        in_channels: of the input.
        *out_channels: behind each ReLU.

    Source: Qi et al., "PointNet", CVPR 2017.
    """
    layers = Sequential()
    for channels in out_channels:
        layers.extend([Linear(in_channels, channels), BatchNorm(channels), ReLU()])
        in_channels = channels
    return layers
