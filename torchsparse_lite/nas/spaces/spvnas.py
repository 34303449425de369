# SPDX-License-Identifier: MIT
"""The search space of SPVNAS as it was released, and its ``net.config`` files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchsparse_lite.errors import refuse
from torchsparse_lite.models.minkunet import Stage, UNetShape
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace, widths

__all__ = ["from_net_config", "spvnas", "to_net_config"]

_LOW = (32, 16, 32, 64, 128, 128, 64, 48, 48)
_HIGH = (32, 48, 96, 192, 384, 384, 192, 128, 128)
_SHARE = 8  # middle and transition channels go from an eighth to all of the stage's most
_DOWN = len(_HIGH) // 2
_BLOCKS = 2
_VOXEL_SIZE_M = 0.05


def spvnas(
    quantum: int = 4, *, width: float = 1.0, voxel_size: float = _VOXEL_SIZE_M
) -> SearchSpace:
    """Channels of stages, blocks and transitions, and one or two blocks a stage.

    Args:
        quantum: channels are multiples of it: 4 as in the released networks, 16 as in the code
            since June 2023.
        width: factor on all ranges; 1 as released.
        voxel_size: edge length in metres; 0.05 as released.

    Source: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution",
    ECCV 2020; ranges of mit-han-lab/spvnas.
    """
    genes: list[Gene] = []
    lows, highs = ([int(c * width) for c in channels] for channels in (_LOW, _HIGH))
    for number in range(1, len(_HIGH)):
        stage = _stage_name(number)
        high = highs[number]
        inner = highs[number - 1] if number <= _DOWN else high
        genes += [
            widths(f"{stage}.channels", lows[number], high, quantum),
            widths(f"{stage}.transition", inner // _SHARE, inner, quantum),
            Gene(f"{stage}.depth", tuple(range(1, _BLOCKS + 1))),
        ]
        for block in range(_BLOCKS):
            deeper = frozenset[Value](range(block + 1, _BLOCKS + 1))
            needs = (f"{stage}.depth", deeper)
            genes.append(
                widths(f"{stage}.mids.{block}", high // _SHARE, high, quantum, needs=needs)
            )

    def network(arch: Arch, **options: Any) -> SPVCNN:
        return _network(arch, highs[0], **{"voxel_size": voxel_size, **options})

    name = f"spvnas-{quantum}"
    if (width, voxel_size) != (1.0, _VOXEL_SIZE_M):
        name += f"-{width:g}-{voxel_size:g}"
    return SearchSpace(name, tuple(genes), network)


def _stage_name(number: int) -> str:
    """Of stage 1 to 8; 0 is the stem."""
    return f"down.{number - 1}" if number <= _DOWN else f"up.{number - 1 - _DOWN}"


def _network(arch: Arch, stem: int, **options: Any) -> SPVCNN:
    stages = [_stage(arch, _stage_name(number)) for number in range(1, len(_HIGH))]
    shape = UNetShape((stem, stem), tuple(stages[:_DOWN]), tuple(stages[_DOWN:]))
    return SPVCNN(shape=shape, **options)


def _stage(arch: Arch, name: str) -> Stage:
    depth = arch.whole(f"{name}.depth")
    return Stage(
        channels=arch.whole(f"{name}.channels"),
        depth=depth,
        transition=arch.whole(f"{name}.transition"),
        mids=tuple(arch.whole(f"{name}.mids.{block}") for block in range(depth)),
        project=True,  # released networks keep the projections of their supernet
    )


def from_net_config(config: Mapping[str, Any], quantum: int = 4) -> Arch:
    """The architecture of a released ``net.config``.

    Args:
        config: the content of the file.
        quantum: of the space.

    Raises:
        ValueError: a module is missing, or a number is none of the space.
    """
    values: dict[str, Value] = {}
    for number in range(1, len(_HIGH)):
        ours, theirs = _stage_name(number), _their_stage(number)
        depth = int(_entry(config, f"{theirs}.feature"))
        values[f"{ours}.channels"] = int(_entry(config, "output_channels")[number])
        values[f"{ours}.transition"] = int(_entry(config, f"{theirs}.transition"))
        values[f"{ours}.depth"] = depth
        for block in range(depth):
            inner = f"{theirs}.feature.layers.{block}.net.layers.0"
            values[f"{ours}.mids.{block}"] = int(_entry(config, inner))
    return spvnas(quantum).arch(values)


def to_net_config(arch: Arch, num_classes: int = 19) -> dict[str, Any]:
    """The content of a ``net.config``, which the released code reads.

    Args:
        arch: of :func:`spvnas`.
        num_classes: scores of the network.

    Raises:
        ValueError: it is of another space, or of other ranges than the released ones.
    """
    if arch.space not in ("spvnas-4", "spvnas-16"):
        rule, remedy = "of spvnas as released", "Take width=1 and voxels of 0.05 m."
        refuse("to_net_config: arch", rule, arch.space, remedy)
    outputs = [_HIGH[0]]
    config: dict[str, Any] = {}
    for number in range(1, len(_HIGH)):
        ours, theirs = _stage_name(number), _their_stage(number)
        depth, channels = arch.whole(f"{ours}.depth"), arch.whole(f"{ours}.channels")
        outputs.append(channels)
        config[f"{theirs}.transition"] = arch.whole(f"{ours}.transition")
        config[f"{theirs}.feature"] = depth
        for block in range(_BLOCKS):
            name = f"{theirs}.feature.layers.{block}"
            is_there = block < depth
            mid = arch.whole(f"{ours}.mids.{block}") if is_there else None
            config[f"{name}.net"] = _BLOCKS if is_there else None
            config[f"{name}.net.layers.0"] = mid
            config[f"{name}.net.layers.1"] = channels if is_there else None
            if block == 0:
                config[f"{name}.downsample"] = channels
    for layer, stage in enumerate((_DOWN, _DOWN + 2, len(_HIGH) - 1)):
        config[f"point_transforms.{layer}"] = outputs[stage]
    size = {"num_classes": num_classes, "pres": _VOXEL_SIZE_M, "vres": _VOXEL_SIZE_M}
    return {**size, "output_channels": outputs, **config, "classifier": num_classes}


def _their_stage(number: int) -> str:
    return f"downsample.{number - 1}" if number <= _DOWN else f"upsample.{number - 1 - _DOWN}"


def _entry(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        remedy = "Give the net.config of a network that SPVNAS released."
        refuse(f"from_net_config: {name}", "given", "nothing", remedy)
    return config[name]
