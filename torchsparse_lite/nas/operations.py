# SPDX-License-Identifier: MIT
"""A network for inference as the list of what is computed, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.kernel_map import STENCILS, ConvGeometry
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.nas.cost import levels_of

__all__ = ["Operation", "geometry_of", "maps_of", "operations_of"]


class Operation(NamedTuple):
    """What takes time by itself, with its size.

    Attributes:
        kind: "conv", "depthwise", "down", "up", "mlp", "linear", "gather", "scatter", "join" or
            "excite"; for convolutions with the form of the kernel behind a colon, such as
            "conv:3x3x3" or "conv:3x3x3/7" with 7 taps.
        level: the tensor stride is ``2**level``, the finer one of two.
        inputs: channels.
        outputs: channels.
    """

    kind: str
    level: int
    inputs: int
    outputs: int


def operations_of(network: nn.Module) -> list[Operation]:
    """What the fused network computes, without kernel maps and voxelisation.

    Args:
        network: an SPVCNN, not fused; its weights may be on the meta device.

    Raises:
        TypeError: it is another network.
    """
    network = as_spvcnn("operations_of", network)
    return [*_of_voxels(network), *_of_points(network)]


def _of_voxels(network: SPVCNN) -> Iterator[Operation]:
    shape = network.unet.shape
    halvings = len(shape.down)
    for number, stage in enumerate(shape.up):
        skip = shape.channels[halvings - 1 - number]
        joined = skip + (stage.transition or stage.channels)
        yield Operation("join", halvings - 1 - number, joined, joined)
    for name, module in network.unet.named_modules():
        if isinstance(module, spnn.Conv3d):
            level, _ = levels_of(name, halvings)
            yield Operation(kind_of(module), level, int(module.in_channels), module.out_channels)
        elif isinstance(module, spnn.SqueezeExcitation):
            level, _ = levels_of(name, halvings)
            yield Operation("excite", level, module.channels, module.channels)


def geometry_of(form: str) -> ConvGeometry:
    """What the form of a kernel stands for, such as "3x3x3/7"."""
    size, _, taps = form.partition("/")
    geometry = ConvGeometry.same([int(part) for part in size.split("x")])
    return replace(geometry, taps=STENCILS[int(taps)]) if taps else geometry


def kind_of(conv: spnn.Conv3d) -> str:
    """Of an operation."""
    if conv.window.transposed:
        return "up"
    if conv.stride != (1, 1, 1):
        return "down"
    form = "x".join(map(str, conv.kernel_size))
    taps = conv.window.geometry.taps
    form = form if taps is None else f"{form}/{len(taps)}"
    return f"depthwise:{form}" if conv.groups > 1 else f"conv:{form}"


def _of_points(network: SPVCNN) -> Iterator[Operation]:
    halvings = len(network.unet.down)
    channels = network.unet.shape.channels
    for stage in network.meetings:
        level = stage if stage <= halvings else 2 * halvings - stage
        yield Operation("gather", level, channels[stage], channels[stage])
        if stage != network.meetings[-1]:
            yield Operation("scatter", level, channels[stage], channels[stage])
    for module in network.points.modules():
        if isinstance(module, nn.Linear):
            yield Operation("mlp", 0, int(module.in_features), module.out_features)
    last = network.classifier
    yield Operation("linear", 0, int(last.in_features), last.out_features)


def maps_of(operations: Iterable[Operation], levels: int) -> list[tuple[str, int]]:
    """What is made of coordinates once, whatever the channels, in an order in which it can be.

    A form at a level: "cells" (the level above), "cube" (neighbours, by descent from the level
    above), "table" (for hashing), "conv:3x3x3" and so on (a map), "down" and "up" (of the two
    levels), "rows" (cell of each point), "gather" (corners around each point), "scatter" (points of
    each cell).

    Args:
        operations: of a network, or of several.
        levels: tensor strides of the network.
    """
    maps: dict[tuple[str, int], None] = {}
    finest_cube, tables = levels, set()
    for kind, level, _, _ in operations:
        name, _, form = kind.partition(":")
        if name in ("conv", "depthwise"):
            if form.startswith("3x3x3"):
                finest_cube = min(finest_cube, level)
            elif form != "1x1x1":
                tables.add(level)
            maps[f"conv:{form}", level] = None
        elif name in ("down", "up"):
            maps[name, level] = None
        elif name in ("gather", "scatter"):
            if level:
                maps["rows", level] = None
            if level or name == "gather":
                tables.add(level)
            maps[name, level] = None
    return [
        *(("cells", level) for level in range(levels - 1)),
        *(("cube", level) for level in reversed(range(finest_cube, levels))),
        *(("table", level) for level in sorted(tables)),
        # Rows come before what is looked up with them.
        *sorted(maps, key=lambda part: part[0] != "rows"),
    ]
