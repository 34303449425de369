# SPDX-License-Identifier: MIT
"""The search space of SPVNAS as it was released, and its ``net.config`` files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchsparse_lite.errors import refuse
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace
from torchsparse_lite.nas.spaces.stages import (
    check_positive,
    size_genes,
    stage_at,
    stage_names,
    unet_of,
)

__all__ = ["from_net_config", "spvnas", "to_net_config"]

_LOW = (32, 16, 32, 64, 128, 128, 64, 48, 48)
_HIGH = (32, 48, 96, 192, 384, 384, 192, 128, 128)
_STAGES = stage_names(len(_HIGH) - 1)
_DEPTHS = (1, 2)
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
    check_positive("spvnas", quantum=quantum, width=width, voxel_size=voxel_size)
    lows, highs = ([int(c * width) for c in channels] for channels in (_LOW, _HIGH))
    genes: list[Gene] = []
    for number, stage in enumerate(_STAGES, 1):
        genes += size_genes(
            stage,
            lows[number],
            highs[number],
            before=highs[number - 1],
            depths=_DEPTHS,
            quantum=quantum,
        )

    def network(arch: Arch, **options: Any) -> SPVCNN:
        stages = [stage_at(arch, name) for name in _STAGES]
        shape = unet_of((highs[0],) * 2, stages)
        return SPVCNN(shape=shape, **{"voxel_size": voxel_size, **options})

    name = f"spvnas-{quantum}"
    if (width, voxel_size) != (1.0, _VOXEL_SIZE_M):
        name += f"-{width:g}-{voxel_size:g}"
    return SearchSpace(name, tuple(genes), network)


def from_net_config(config: Mapping[str, Any], quantum: int = 4) -> Arch:
    """The architecture of a released ``net.config``.

    Args:
        config: the content of the file.
        quantum: of the space.

    Raises:
        ValueError: a module is missing, or a number is none of the space.
    """
    outputs = _entry(config, "output_channels")
    if len(outputs) != len(_HIGH) or int(outputs[0]) != _HIGH[0]:
        rule = f"{len(_HIGH)} numbers, the first of them {_HIGH[0]}"
        remedy = "Give the net.config of a network that SPVNAS released."
        refuse("from_net_config: output_channels", rule, outputs, remedy)
    values: dict[str, Value] = {}
    for number, ours in enumerate(_STAGES, 1):
        theirs = _their_name(ours)
        depth = int(_entry(config, f"{theirs}.feature"))
        values[f"{ours}.channels"] = int(outputs[number])
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
    for ours in _STAGES:
        theirs = _their_name(ours)
        depth, channels = arch.whole(f"{ours}.depth"), arch.whole(f"{ours}.channels")
        outputs.append(channels)
        config[f"{theirs}.transition"] = arch.whole(f"{ours}.transition")
        config[f"{theirs}.feature"] = depth
        for block in range(_DEPTHS[-1]):
            name = f"{theirs}.feature.layers.{block}"
            is_there = block < depth
            mid = arch.whole(f"{ours}.mids.{block}") if is_there else None
            config[f"{name}.net"] = _DEPTHS[-1] if is_there else None
            config[f"{name}.net.layers.0"] = mid
            config[f"{name}.net.layers.1"] = channels if is_there else None
            if block == 0:
                config[f"{name}.downsample"] = channels
    for layer, stage in enumerate((4, 6, 8)):
        config[f"point_transforms.{layer}"] = outputs[stage]
    size = {"num_classes": num_classes, "pres": _VOXEL_SIZE_M, "vres": _VOXEL_SIZE_M}
    return {**size, "output_channels": outputs, **config, "classifier": num_classes}


def _their_name(stage: str) -> str:
    part, number = stage.split(".")
    return f"{part}sample.{number}"


def _entry(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        remedy = "Give the net.config of a network that SPVNAS released."
        refuse(f"from_net_config: {name}", "given", "nothing", remedy)
    return config[name]
