# SPDX-License-Identifier: MIT
"""The blocks that the networks are built from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.errors import Triple, check_choice, refuse
from torchsparse_lite.kernel_map import STENCILS
from torchsparse_lite.nn.compose import conv_norm, conv_norm_relu
from torchsparse_lite.nn.conv_sum import ReadsSides, over_sides, runs_as, sum_convs
from torchsparse_lite.tensor import SparseTensor, cat

__all__ = [
    "BLOCKS",
    "KERNELS",
    "Block",
    "BottleneckBlock",
    "DepthwiseBlock",
    "FusedBlock",
    "Kernel",
    "ResidualBlock",
]

KERNELS = ("3x3x3", "3x1x1", "5x5x5")
"""Forms of a block's kernel: 3x3x3; one along each axis in turn, 3x1x1, 1x3x1, 1x1x3; 5x5x5."""


@dataclass(frozen=True)
class Kernel:
    """Which cells a block looks at.

    Attributes:
        form: one of :data:`KERNELS`.
        taps: of a 3x3x3 kernel that are used: 27, 19, 15 or 7, see
            :data:`~torchsparse_lite.STENCILS`.
    """

    form: str = "3x3x3"
    taps: int = 27

    def __post_init__(self) -> None:
        check_choice("Kernel: form", self.form, KERNELS)
        allowed = tuple(STENCILS) if self.form == "3x3x3" else (27,)
        if self.taps not in allowed:
            rule = f"one of {', '.join(map(str, allowed))} for a kernel of form {self.form}"
            refuse("Kernel: taps", rule, self.taps, "Only 3x3x3 kernels leave taps out.")

    def convs(self, in_channels: int, out_channels: int, groups: int = 1) -> dict[str, spnn.Conv3d]:
        """The convolution, or three in a row, without bias, norm or activation; by their names."""
        if self.form == "3x1x1":
            sizes: dict[str, Triple] = {"x": (3, 1, 1), "y": (1, 3, 1), "z": (1, 1, 3)}
        else:
            edge = int(self.form.split("x")[0])
            sizes = {"0": (edge, edge, edge)}
        taps = None if self.taps == 27 else STENCILS[self.taps]
        layers = {}
        for name, size in sizes.items():
            layers[name] = spnn.Conv3d(
                in_channels, out_channels, size, groups=groups, bias=False, taps=taps
            )
            in_channels = out_channels
        return layers


class Block(nn.Module):
    """Parts one after the other, and a shortcut around them: ``relu(parts(x) + shortcut(x))``.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        mid_channels: inside; ``out_channels`` if None.
        kernel: which cells it looks at.
        project: put a projection into the shortcut even if the channels agree.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int | None = None,
        *,
        kernel: Kernel = Kernel(),
        project: bool = False,
    ) -> None:
        super().__init__()
        mid = out_channels if mid_channels is None else mid_channels
        made = self._make(in_channels, mid, out_channels, kernel)
        for name, part in zip(self.parts, made, strict=True):
            self.add_module(name, part)
        self.shortcut = (
            conv_norm(in_channels, out_channels, 1)
            if project or in_channels != out_channels
            else nn.Identity()
        )
        self.relu = spnn.ReLU()

    def _make(
        self, in_channels: int, mid: int, out_channels: int, kernel: Kernel
    ) -> tuple[nn.Module, ...]:
        """The parts; the last one ends in a norm."""
        raise NotImplementedError

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, in_channels) to (N, out_channels) at the same cells."""
        y = x
        for name in self.parts:
            y = self.get_submodule(name)(y)
        result: SparseTensor = self.relu(y + self.shortcut(x))
        return result

    def fused(self) -> nn.Module:
        """What :func:`~torchsparse_lite.nn.fuse` puts here once the parts are fused."""
        *parts, last = (self.get_submodule(name) for name in self.parts)
        *before, conv = last if isinstance(last, spnn.Sequential) else (last,)
        if not isinstance(conv, spnn.Conv3d):
            return self
        return FusedBlock([*parts, *before], conv, self.shortcut)


class ResidualBlock(Block):
    """Two spatial convolutions. Arguments: see :class:`Stage` and :class:`Kernel`.

    Source: He et al., "Deep Residual Learning", CVPR 2016, on the cells of Choy et al., "4D
    Spatio-Temporal ConvNets", CVPR 2019.
    """

    parts = ("first", "second")

    def _make(
        self, in_channels: int, mid: int, out_channels: int, kernel: Kernel
    ) -> tuple[nn.Module, ...]:
        return (
            _spatial(kernel, in_channels, mid, spnn.ReLU()),
            _spatial(kernel, mid, out_channels),
        )


class BottleneckBlock(Block):
    """A spatial convolution between two projections, to the middle width and back.

    Source: He et al., "Deep Residual Learning", CVPR 2016.
    """

    parts = ("reduce", "spatial", "expand")

    def _make(
        self, in_channels: int, mid: int, out_channels: int, kernel: Kernel
    ) -> tuple[nn.Module, ...]:
        return (
            conv_norm_relu(in_channels, mid, 1),
            _spatial(kernel, mid, mid, spnn.ReLU()),
            conv_norm(mid, out_channels, 1),
        )


class DepthwiseBlock(Block):
    """A depthwise convolution with squeeze-and-excitation between two projections.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019.
    """

    parts = ("widen", "depthwise", "narrow")

    def _make(
        self, in_channels: int, mid: int, out_channels: int, kernel: Kernel
    ) -> tuple[nn.Module, ...]:
        return (
            conv_norm_relu(in_channels, mid, 1),
            _spatial(kernel, mid, mid, spnn.ReLU(), spnn.SqueezeExcitation(mid), groups=mid),
            conv_norm(mid, out_channels, 1),
        )


BLOCKS: dict[str, type[Block]] = {
    "residual": ResidualBlock,
    "bottleneck": BottleneckBlock,
    "depthwise": DepthwiseBlock,
}
"""Kinds of blocks by name."""


def _spatial(
    kernel: Kernel, in_channels: int, out_channels: int, *after: nn.Module, groups: int = 1
) -> spnn.Sequential:
    """Convolutions of the kernel, batch norm, and what comes after."""
    convs = kernel.convs(in_channels, out_channels, groups)
    rest = spnn.BatchNorm(out_channels), *after
    if len(convs) == 1:
        return spnn.Sequential(*convs.values(), *rest)
    # Named, so that the weights of three lines and of a cube are different ones in a supernet.
    names = ("norm", "relu", "excite")
    return spnn.Sequential(OrderedDict([*convs.items(), *zip(names, rest, strict=False)]))


class FusedBlock(ReadsSides):
    """A block whose shortcut and last ReLU join the pass of its last convolution.

    Args:
        parts: all before the last convolution.
        last: without norm and activation.
        shortcut: around them.
    """

    def __init__(self, parts: list[nn.Module], last: spnn.Conv3d, shortcut: nn.Module) -> None:
        super().__init__()
        self.parts = spnn.Sequential(*parts)
        self.last = last
        self.shortcut = shortcut

    def forward(self, *sides: SparseTensor) -> SparseTensor:
        """What the block computes of its input, or of tensors side by side that stand for it."""
        y = over_sides(self.parts, sides)
        shortcut = self.shortcut
        if runs_as(shortcut, spnn.Sequential) and len(shortcut) == 1:
            (shortcut,) = shortcut
        if runs_as(shortcut, spnn.Conv3d):
            return sum_convs((self.last, (y,)), (shortcut, sides), relu=True)
        x = sides[0] if len(sides) == 1 else cat(sides)
        result: SparseTensor = self.last(y, residual=self.shortcut(x), relu=True)
        return result
