# SPDX-License-Identifier: MIT
"""Sparse encoder of a 3D detector: voxels in, a picture from above out (bird's eye view)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.errors import Triple, check_choice, refuse, triple
from torchsparse_lite.kernel_map import ConvGeometry
from torchsparse_lite.models.blocks import ResidualBlock
from torchsparse_lite.nn.compose import conv_norm_relu
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["ENCODERS", "BEVEncoder", "EncoderShape", "EncoderStage", "bev_encoder"]

_HEIGHT = ConvGeometry((1, 1, 3), (1, 1, 2))
"""The last convolution, along the height alone."""


@dataclass(frozen=True)
class EncoderStage:
    """One resolution.

    Attributes:
        channels: of its output.
        depth: residual blocks.
        padding: (x, y, z) of the convolution in front of them, which has kernel 3 and stride 2.
    """

    channels: int
    depth: int = 2
    padding: Triple = (1, 1, 1)

    def __post_init__(self) -> None:
        if self.channels < 1 or self.depth < 0:
            refuse(
                "EncoderStage: channels and depth",
                "at least 1 and at least 0",
                f"{self.channels} and {self.depth}",
                "Leave the stage out instead.",
            )

    @property
    def geometry(self) -> ConvGeometry:
        """Of its strided convolution."""
        return ConvGeometry((3, 3, 3), (2, 2, 2), padding=self.padding)


@dataclass(frozen=True)
class EncoderShape:
    """Width and depth of a :class:`BEVEncoder`.

    Attributes:
        stem: channels at full resolution.
        stem_depth: residual blocks there.
        down: stages that halve the resolution each.
        out_channels: of a cell of the output, before its layers are stacked.
        grid: extent (X, Y, Z) in voxels that the preset was made for; not enforced.
    """

    stem: int
    stem_depth: int
    down: tuple[EncoderStage, ...]
    out_channels: int
    grid: Triple

    def __post_init__(self) -> None:
        if self.stem < 1 or self.stem_depth < 0 or self.out_channels < 1:
            refuse(
                "EncoderShape: stem, stem_depth and out_channels",
                "at least 1, 0 and 1",
                (self.stem, self.stem_depth, self.out_channels),
                "Give positive channel counts.",
            )


ENCODERS = {
    "centerpoint": EncoderShape(
        stem=16,
        stem_depth=2,
        down=(EncoderStage(32), EncoderStage(64), EncoderStage(128, padding=(1, 1, 0))),
        out_channels=128,
        grid=(1024, 1024, 41),
    ),
}
"""CenterPoint's ``SpMiddleResNetFHD``. Its grid is that of nuScenes within 51.2 m at voxels of
(0.1, 0.1, 0.2) m: 40 layers, and one more that it adds on top."""


class BEVEncoder(nn.Module):
    """Residual stages at full, half, quarter, ... resolution, then the height becomes channels.

    Strided layers use the rule "full" and clip at the tensor's ``spatial_shape``, as a dense
    network does.

    Args:
        in_channels: features of a voxel.
        shape: width and depth.

    Source: Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, after Yan et
    al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018. Norms have their eps
    1e-3 and momentum 0.01; their axes are z, y, x and ours x, y, z.
    """

    def __init__(self, in_channels: int = 5, shape: EncoderShape = ENCODERS["centerpoint"]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.shape = shape
        self.stem = conv_norm_relu(in_channels, shape.stem)
        first = EncoderStage(shape.stem, shape.stem_depth)
        self.stages = nn.ModuleList([_Stage(shape.stem, first, nn.Identity())])
        width = shape.stem
        for stage in shape.down:
            size, stride, _, padding = stage.geometry.triples
            halve = conv_norm_relu(width, stage.channels, size, stride=stride, padding=padding)
            self.stages.append(_Stage(stage.channels, stage, halve))
            width = stage.channels
        self.height = conv_norm_relu(
            width, shape.out_channels, _HEIGHT.kernel_size, stride=_HEIGHT.stride
        )
        for module in self.modules():
            if isinstance(module, spnn.BatchNorm):
                module.eps, module.momentum = 1e-3, 0.01

    def forward(self, x: SparseTensor) -> Tensor:
        """The picture from above.

        Args:
            x: (N, in_channels) at tensor stride 1, with a ``spatial_shape``.

        Returns:
            (batch_size, out_channels * Z', X', Y') dense, see :meth:`output_shape`; channel
            ``c * Z' + z`` is channel c of layer z. CenterPoint's is this one with the last two axes
            exchanged.

        Raises:
            ValueError: without ``spatial_shape``, or with one that is too flat.
        """
        levels = self.features(x)
        top: SparseTensor = self.height(levels[-1])
        return top.dense().permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()

    def features(self, x: SparseTensor) -> tuple[SparseTensor, ...]:
        """The output of every stage, full resolution first."""
        check_sparse("BEVEncoder", x, self.in_channels)
        if x.spatial_shape is None:
            refuse(
                "BEVEncoder: x",
                "a tensor with spatial_shape",
                "one without",
                f"Build it with spatial_shape={self.shape.grid}, or the extent of your grid.",
            )
        self.output_shape(x.spatial_shape)
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return tuple(levels)

    def output_shape(self, spatial_shape: Iterable[int] | None = None) -> Triple:
        """(channels, X', Y') of the picture for a grid of this extent.

        Args:
            spatial_shape: (X, Y, Z) in voxels; that of the preset if None.

        Raises:
            ValueError: nothing would be left of the grid.
        """
        where = "BEVEncoder: spatial_shape"
        given = self.shape.grid if spatial_shape is None else spatial_shape
        extent = triple(where, given, minimum=1, one_for_all=False)
        left = extent
        for stage in self.shape.down:
            left = stage.geometry.output_shape(left)
        x, y, z = _HEIGHT.output_shape(left)
        if min(x, y, z) < 1:
            refuse(where, "large enough for the stages", extent, "Use smaller voxels.")
        return self.shape.out_channels * z, x, y


class _Stage(nn.Module):
    """A strided convolution or none, then residual blocks."""

    def __init__(self, width: int, stage: EncoderStage, transition: nn.Module) -> None:
        super().__init__()
        self.transition = transition
        self.blocks = spnn.Sequential(*(ResidualBlock(width, width) for _ in range(stage.depth)))

    def forward(self, x: SparseTensor) -> SparseTensor:
        result: SparseTensor = self.blocks(self.transition(x))
        return result


def bev_encoder(preset: str = "centerpoint", *, in_channels: int = 5) -> BEVEncoder:
    """A :class:`BEVEncoder` by name.

    Args:
        preset: "centerpoint", see :data:`ENCODERS`.
        in_channels: features of a voxel; CenterPoint's are x, y, z, intensity and time.
    """
    check_choice("bev_encoder: preset", preset, ENCODERS)
    return BEVEncoder(in_channels, ENCODERS[preset])
