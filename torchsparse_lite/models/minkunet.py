# SPDX-License-Identifier: MIT
"""MinkUNet: the residual U-Net on sparse voxels. Its width and depth are data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.channels import Joined
from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.models.blocks import BLOCKS, Kernel
from torchsparse_lite.nn.compose import conv_norm_relu
from torchsparse_lite.nn.conv_sum import over_sides, reads_sides
from torchsparse_lite.tensor import SparseTensor, cat

__all__ = ["PRESETS", "MinkUNet", "Stage", "UNetShape", "minkunet"]


@dataclass(frozen=True)
class Stage:
    """One resolution on the way down or up.

    Attributes:
        channels: of its output.
        depth: residual blocks.
        transition: channels behind its strided convolution; None for those of the stage below
            (down: its input's, up: its own).
        mids: channels inside each block; None for ``channels``.
        block: kind of the blocks, one of :data:`BLOCKS`.
        kernel: which cells they look at.
        project: the first block has a projection in its shortcut even if the channels happen to
            agree, as in searched networks.
    """

    channels: int
    depth: int = 2
    transition: int | None = None
    mids: tuple[int, ...] | None = None
    block: str = "residual"
    kernel: Kernel = field(default_factory=Kernel)
    project: bool = False

    def __post_init__(self) -> None:
        if self.depth < 0 or self.channels < 1 or len(self.mids or ()) not in (0, self.depth):
            refuse(
                "Stage: mids",
                "one number per block, with depth >= 0 and channels >= 1",
                self,
                "Give as many as depth says, or None.",
            )
        check_choice("Stage: block", self.block, BLOCKS)


@dataclass(frozen=True)
class UNetShape:
    """Width and depth of a :class:`MinkUNet`.

    Attributes:
        stem: channels of the convolutions at full resolution.
        stem_kernel: their taps per axis.
        down: stages that halve the resolution each.
        up: stages that double it again; as many as ``down``.
    """

    stem: tuple[int, ...]
    down: tuple[Stage, ...]
    up: tuple[Stage, ...]
    stem_kernel: int = 3

    def __post_init__(self) -> None:
        if len(self.up) != len(self.down) or not self.stem:
            refuse(
                "UNetShape: up",
                f"as many stages as down ({len(self.down)}), with a stem",
                f"{len(self.up)} stages and {len(self.stem)} convolutions in the stem",
                "Every halving needs its doubling.",
            )

    @classmethod
    def of(
        cls,
        channels: Sequence[int],
        depths: Sequence[int],
        *,
        stem_depth: int = 2,
        stem_kernel: int = 3,
    ) -> UNetShape:
        """From two lists: stem and stages down and up.

        Args:
            channels: of the stem and of each stage, first down, then up.
            depths: of each stage.
            stem_depth: convolutions of the stem.
            stem_kernel: their taps per axis.
        """
        stages = tuple(Stage(c, d) for c, d in zip(channels[1:], depths, strict=True))
        half = len(stages) // 2
        return cls((channels[0],) * stem_depth, stages[:half], stages[half:], stem_kernel)

    def scaled(self, ratio: float) -> UNetShape:
        """All channels times ``ratio``, rounded down."""

        def scale(stage: Stage) -> Stage:
            return replace(
                stage,
                channels=int(stage.channels * ratio),
                transition=None if stage.transition is None else int(stage.transition * ratio),
                mids=None if stage.mids is None else tuple(int(c * ratio) for c in stage.mids),
            )

        return replace(
            self,
            stem=tuple(int(c * ratio) for c in self.stem),
            down=tuple(scale(stage) for stage in self.down),
            up=tuple(scale(stage) for stage in self.up),
        )

    @classmethod
    def preset(cls, name: str, width: float = 1.0) -> UNetShape:
        """One of :data:`PRESETS`.

        Args:
            name: "18", "34" (MinkowskiEngine) or "42" (SPVNAS).
            width: factor on all channels, SPVNAS' ``cr``: 0.5, 0.64 or 1.0.
        """
        check_choice("UNetShape.preset: name", name, PRESETS)
        return PRESETS[name].scaled(width)

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the stem and of every stage."""
        return self.stem[-1], *(stage.channels for stage in (*self.down, *self.up))


_CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
PRESETS = {
    "18": UNetShape.of(_CHANNELS, (2,) * 8, stem_depth=1, stem_kernel=5),
    "34": UNetShape.of(_CHANNELS, (2, 3, 4, 6, 2, 2, 2, 2), stem_depth=1, stem_kernel=5),
    "42": UNetShape.of(_CHANNELS, (2,) * 8),
}
"""By the number of convolutions: 18 and 34 of MinkowskiEngine (18C, 34C), 42 of SPVNAS."""

Exchange = Callable[[int, SparseTensor], SparseTensor]


class MinkUNet(nn.Module):
    """Residual U-Net on sparse voxels.

    Args:
        in_channels: features of a voxel.
        num_classes: scores of a voxel; 0 leaves the classifier out.
        shape: width and depth.

    Source: Choy et al., "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks",
    CVPR 2019; in the form of Tang et al., "Searching Efficient 3D Architectures with Sparse
    Point-Voxel Convolution", ECCV 2020.
    """

    def __init__(
        self, in_channels: int = 4, num_classes: int = 19, shape: UNetShape = PRESETS["42"]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.stem = spnn.Sequential()
        width = in_channels
        for channels in shape.stem:
            self.stem.extend([conv_norm_relu(width, channels, shape.stem_kernel)])
            width = channels
        self.down = nn.ModuleList()
        skips = [width]
        for stage in shape.down:
            self.down.append(_Down(width, stage))
            width = stage.channels
            skips.append(width)
        skips.pop()
        self.up = nn.ModuleList()
        for stage in shape.up:
            self.up.append(_Up(width, skips.pop(), stage))
            width = stage.channels
        self.classifier = spnn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Scores of every voxel.

        Args:
            x: (N, in_channels) at tensor stride 1.

        Returns:
            (N, num_classes) at the same voxels.
        """
        result: SparseTensor = self.classifier(self.features(x))
        return result

    def features(self, x: SparseTensor, exchange: Exchange = lambda _, x: x) -> SparseTensor:
        """What the classifier sees.

        Args:
            x: (N, in_channels).
            exchange: called with the number of a stage (0 is the stem) and its output; what it
                returns enters the next stage. The point branch of SPVCNN hooks in here.
        """
        skips = [self.stem(x)]
        x = exchange(0, skips[0])
        for number, down in enumerate(self.down, 1):
            skips.append(down(x))
            x = exchange(number, skips[-1])
        skips.pop()
        for number, up in enumerate(self.up, 1 + len(self.down)):
            x = exchange(number, up(x, skips.pop()))
        return x


class _Down(nn.Module):
    """Halves the resolution, then residual blocks."""

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        width = stage.transition or in_channels
        self.transition = conv_norm_relu(in_channels, width, 2, stride=2)
        self.blocks = _blocks(width, stage)

    def forward(self, x: SparseTensor) -> SparseTensor:
        result: SparseTensor = self.blocks(self.transition(x))
        return result


class _Up(nn.Module):
    """Doubles the resolution, joins the skip connection, then residual blocks."""

    def __init__(self, in_channels: int, skip_channels: int, stage: Stage) -> None:
        super().__init__()
        width = stage.transition or stage.channels
        self.transition = conv_norm_relu(in_channels, width, 2, stride=2, up=True)
        self.blocks = _blocks(Joined(width, skip_channels), stage)

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        result: SparseTensor = self.blocks(cat([self.transition(x), skip]))
        return result

    def fused(self) -> nn.Module:
        """What :func:`~torchsparse_lite.nn.fuse` puts here once the parts are fused."""
        return _FusedUp(self.transition, self.blocks)


class _FusedUp(nn.Module):
    """Concatenates nothing where the layers behind can read both tensors where they lie."""

    def __init__(self, transition: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.transition = transition
        self.blocks = blocks

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        sides = (self.transition(x), skip)
        if reads_sides(sides):
            return over_sides(self.blocks, sides)
        joined = cat(sides)
        del sides  # its memory is free for the blocks
        result: SparseTensor = self.blocks(joined)
        return result


def _blocks(in_channels: int, stage: Stage) -> nn.Module:
    """The blocks of a stage; without any, at most a projection to its channels."""
    if not stage.depth and (stage.project or in_channels != stage.channels):
        return conv_norm_relu(in_channels, stage.channels, 1)
    mids = stage.mids or (stage.channels,) * stage.depth
    blocks = spnn.Sequential()
    for number, mid in enumerate(mids):
        block = BLOCKS[stage.block](
            in_channels if number == 0 else stage.channels,
            stage.channels,
            mid,
            kernel=stage.kernel,
            project=stage.project and number == 0,
        )
        blocks.append(block)
    return blocks


def minkunet(
    preset: str = "42", *, in_channels: int = 4, num_classes: int = 19, width: float = 1.0
) -> MinkUNet:
    """A :class:`MinkUNet` by name; ``preset`` and ``width`` as for :meth:`UNetShape.preset`."""
    return MinkUNet(in_channels, num_classes, UNetShape.preset(preset, width))
