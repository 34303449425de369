# SPDX-License-Identifier: MIT
"""The smaller networks inside a trained one: fewer channels, fewer taps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.kernel_map import STENCILS
from torchsparse_lite.models.blocks import Kernel
from torchsparse_lite.models.minkunet import Stage, UNetShape
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace
from torchsparse_lite.nas.spaces.stages import check_positive
from torchsparse_lite.nn import BatchNorm

__all__ = ["options_of", "pruning", "pruning_of"]


def pruning_of(network: nn.Module, *, quantum: int = 8, least: float = 0.2) -> dict[str, Any]:
    """What :func:`pruning` is to be called with for a trained network.

    Args:
        network: an SPVCNN, not fused. Put its important channels in front with ``sort_channels``.
        quantum: channels are multiples of it, or all.
        least: share of the channels that stays, at least.

    Returns:
        Plain values, as JSON has them.

    Raises:
        TypeError: it is another network.
    """
    network = as_spvcnn("pruning_of", network)
    return {
        "shape": asdict(_as_built(network)),
        "voxel_size": network.voxel_size,
        "meetings": list(network.meetings),
        "point_widths": {str(stage): width for stage, width in network.point_widths.items()},
        "quantum": quantum,
        "least": least,
    }


def options_of(network: nn.Module) -> dict[str, Any]:
    """With which options the space builds such a network; see :meth:`SearchSpace.build`."""
    network = as_spvcnn("options_of", network)
    first: Any = network.unet.stem[0]
    return {
        "in_channels": int(first[0].in_channels),
        "num_classes": network.classifier.out_features,
        "dropout": network.dropout.p,
        "normalize": isinstance(network.input, BatchNorm),
    }


def _as_built(network: SPVCNN) -> UNetShape:
    """The shape with everything said that it leaves open."""
    shape = network.unet.shape

    def said(stage: Stage, module: Any, entering: int | None) -> Stage:
        has_projection = stage.depth > 0 and not isinstance(module.blocks[0].shortcut, nn.Identity)
        return replace(
            stage,
            transition=stage.transition or entering or stage.channels,
            mids=stage.mids or (stage.channels,) * stage.depth,
            project=has_projection or (stage.depth == 0 and len(module.blocks) > 0),
        )

    entering = (shape.stem[-1], *(stage.channels for stage in shape.down))
    down = map(said, shape.down, network.unet.down, entering)
    up = (
        said(stage, module, None) for stage, module in zip(shape.up, network.unet.up, strict=True)
    )
    return replace(shape, down=tuple(down), up=tuple(up))


def pruning(
    shape: dict[str, Any],
    *,
    voxel_size: float | Sequence[float],
    meetings: Sequence[int],
    point_widths: dict[str, int] | None = None,
    quantum: int = 8,
    least: float = 0.2,
) -> SearchSpace:
    """Channels of stem, stages, transitions and blocks of one network, and taps of its cubes.

    Layers of the stem keep their ratios. The widths of the point branch and kernels other than the
    whole 3x3x3 stay as they are.

    Args:
        shape: of the network, from :func:`pruning_of`, as everything else.
        voxel_size: edge length of its voxels.
        meetings: of points and voxels.
        point_widths: of its point branch.
        quantum: channels are multiples of it, or all.
        least: share of the channels that stays, at least.

    Raises:
        ValueError: a quantum that is not positive, or a share that is none.

    Source: ratios by layer as in He et al., "AMC", ECCV 2018.
    """
    check_positive("pruning", quantum=quantum)
    if not 0 < least <= 1:
        refuse("pruning: least", "above 0, at most 1", least, "1 leaves all channels.")
    whole = _shape_of(shape)

    def channels(name: str, most: int) -> Gene:
        low = max(int(least * most), 1)
        fewer = [c for c in range(quantum, most, quantum) if c >= low]
        return Gene(name, (*fewer, most), is_width=True)

    def genes() -> Iterator[Gene]:
        yield channels("stem", whole.stem[-1])
        for name, stage in _named(whole):
            yield channels(f"{name}.channels", stage.channels)
            if stage.project:
                yield channels(f"{name}.transition", int(stage.transition or stage.channels))
            for block, mid in enumerate(stage.mids or ()):
                yield channels(f"{name}.mids.{block}", mid)
            if stage.depth and stage.kernel == Kernel():
                yield Gene(f"{name}.taps", tuple(sorted(STENCILS)))

    def network(arch: Arch, **options: Any) -> SPVCNN:
        return SPVCNN(
            shape=_pruned(whole, arch),
            voxel_size=voxel_size,
            meetings=meetings,
            point_widths={int(stage): width for stage, width in (point_widths or {}).items()},
            **options,
        )

    beside = [voxel_size, list(meetings), point_widths or {}]
    text = json.dumps([shape, *beside, quantum, least], sort_keys=True)
    name = f"pruning-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return SearchSpace(name, tuple(genes()), network)


def _shape_of(shape: dict[str, Any]) -> UNetShape:
    def stage(values: dict[str, Any]) -> Stage:
        return Stage(
            **{**values, "mids": tuple(values["mids"]), "kernel": Kernel(**values["kernel"])}
        )

    return UNetShape(
        stem=tuple(shape["stem"]),
        down=tuple(stage(values) for values in shape["down"]),
        up=tuple(stage(values) for values in shape["up"]),
        stem_kernel=shape["stem_kernel"],
    )


def _named(shape: UNetShape) -> Iterator[tuple[str, Stage]]:
    for part, stages in (("down", shape.down), ("up", shape.up)):
        for number, stage in enumerate(stages):
            yield f"{part}.{number}", stage


def _pruned(whole: UNetShape, arch: Arch) -> UNetShape:
    def size(name: str, otherwise: Value) -> int:
        return int(arch.get(name, otherwise))

    stages = []
    for name, stage in _named(whole):
        channels = size(f"{name}.channels", stage.channels)
        taps = size(f"{name}.taps", stage.kernel.taps)
        stages.append(
            replace(
                stage,
                channels=channels,
                # Without a projection the first block adds its input to its output.
                transition=size(f"{name}.transition", channels),
                mids=tuple(size(f"{name}.mids.{b}", mid) for b, mid in enumerate(stage.mids or ())),
                kernel=replace(stage.kernel, taps=taps),
            )
        )
    down = len(whole.down)
    share = size("stem", whole.stem[-1]) / whole.stem[-1]
    stem = tuple(max(round(share * width), 1) for width in whole.stem)
    return replace(whole, stem=stem, down=tuple(stages[:down]), up=tuple(stages[down:]))
