# SPDX-License-Identifier: MIT
"""Our space for driving scenes: everything that a latency can be bought with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from torchsparse_lite.kernel_map import STENCILS
from torchsparse_lite.models.blocks import Kernel
from torchsparse_lite.models.minkunet import Stage, UNetShape
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace, widths

__all__ = ["lidar"]

_HIGH = (32, 64, 128, 256, 256, 128, 96, 96)
_SHARE = 8  # middle and transition channels go from an eighth to all of the stage's most
_MEETINGS = (0, 4, 6, 8)
_BETWEEN = (32, 64, 128)
_KERNELS = ("3x1x1", "3", "5")
_BLOCKS = ("depthwise", "bottleneck", "residual")


def lidar(
    name: str = "lidar",
    *,
    quantum: int = 8,
    high: tuple[int, ...] = _HIGH,
    deepest: int = 4,
    voxel_sizes: tuple[float, ...] = (0.10, 0.075, 0.05),
    flatter: tuple[float, ...] = (2.0, 1.5, 1.0),
) -> SearchSpace:
    """Widths, depths, kernels and their taps, blocks, the point branch, voxels.

    Args:
        name: of the space; take another one where something below is another.
        quantum: channels are multiples of it: 4, 8, 16 or 32, as the hardware likes them.
        high: most channels of the eight stages, first down, then up; half is the least.
        deepest: blocks of a stage, at most; stages on the way up can go without.
        voxel_sizes: edge lengths in metres, from cheap to dear.
        flatter: factors on the height of voxels, from cheap to dear.
    """
    genes = [
        Gene("voxel_size", voxel_sizes),
        Gene("flatter", flatter),
        widths("stem.channels", 16, 48, quantum),
        Gene("stem.depth", (1, 2)),
    ]
    for meeting in _MEETINGS:
        genes.append(_points_gene(meeting))
    for number in range(1, len(high) + 1):
        genes += _stage_genes(number, (48, *high), deepest, quantum)
    return SearchSpace(name, tuple(genes), _network, tuple(_structures(len(high), deepest)))


def _points_gene(meeting: int) -> Gene:
    """Whether points and voxels meet behind a stage, and the layer between on the way there."""
    options: list[Value] = [] if meeting == _MEETINGS[-1] else ["off"]
    options.append("plain")
    if meeting != _MEETINGS[0]:
        options += _BETWEEN
    return Gene(f"points.{meeting}", tuple(options))


def _stage_name(number: int, stages: int) -> str:
    half = stages // 2
    return f"down.{number - 1}" if number <= half else f"up.{number - 1 - half}"


def _stage_genes(number: int, high: tuple[int, ...], deepest: int, quantum: int) -> list[Gene]:
    stages = len(high) - 1
    stage, most = _stage_name(number, stages), high[number]
    is_down = number <= stages // 2
    inner = high[number - 1] if is_down else most
    depths = tuple(range(1 if is_down else 0, deepest + 1))
    some = (f"{stage}.depth", frozenset[Value](range(1, deepest + 1)))
    cube = (f"{stage}.kernel", frozenset[Value]({"3"}))
    genes = [
        widths(f"{stage}.channels", most // 2, most, quantum),
        widths(f"{stage}.transition", inner // _SHARE, inner, quantum),
        Gene(f"{stage}.depth", depths),
        Gene(f"{stage}.kernel", _kernels(number, stages), needs=some),
        Gene(f"{stage}.taps", tuple(sorted(STENCILS)), needs=cube),
        Gene(f"{stage}.block", _BLOCKS, needs=some),
    ]
    for block in range(deepest):
        needs = (f"{stage}.depth", frozenset[Value](range(block + 1, deepest + 1)))
        genes.append(widths(f"{stage}.mids.{block}", most // _SHARE, most, quantum, needs=needs))
    return genes


def _kernels(number: int, stages: int) -> tuple[Value, ...]:
    """5x5x5 only at tensor strides 1 to 4: there are few neighbours, and few channels to weigh."""
    is_fine = min(number, stages - number) <= 2
    return _KERNELS if is_fine else _KERNELS[:-1]


def _structures(stages: int, deepest: int) -> Iterator[dict[str, Value]]:
    names = [_stage_name(number, stages) for number in range(1, stages + 1)]
    for form, block in product(range(len(_KERNELS)), _BLOCKS):
        structure: dict[str, Value] = {f"{name}.block": block for name in names}
        for number, name in enumerate(names, 1):
            forms = _kernels(number, stages)
            structure[f"{name}.kernel"] = forms[min(form, len(forms) - 1)]
        yield structure
    yield {f"{name}.depth": 0 for name in names if name.startswith("up")}
    for count in range(len(_MEETINGS)):
        for off in combinations(_MEETINGS[:-1], count):
            for kind in ("plain", _BETWEEN[-1]):
                on = {m: kind if m else "plain" for m in _MEETINGS if m not in off}
                yield {f"points.{m}": on.get(m, "off") for m in _MEETINGS}


def _network(arch: Arch, **options: Any) -> SPVCNN:
    stages = sum(name.endswith(".depth") for name in arch) - 1
    shapes = [_stage(arch, _stage_name(number, stages)) for number in range(1, stages + 1)]
    shape = UNetShape(
        stem=(arch.whole("stem.channels"),) * arch.whole("stem.depth"),
        down=tuple(shapes[: stages // 2]),
        up=tuple(shapes[stages // 2 :]),
    )
    points = {meeting: arch[f"points.{meeting}"] for meeting in _MEETINGS}
    meetings = [meeting for meeting, kind in points.items() if kind != "off"]
    between = {m: int(points[m]) for m in meetings[1:] if points[m] != "plain"}
    edge = float(arch["voxel_size"])
    size = (edge, edge, edge * float(arch["flatter"]))
    return SPVCNN(shape=shape, voxel_size=size, meetings=meetings, point_widths=between, **options)


def _stage(arch: Arch, name: str) -> Stage:
    depth = arch.whole(f"{name}.depth")
    shape = Stage(
        channels=arch.whole(f"{name}.channels"),
        depth=depth,
        transition=arch.whole(f"{name}.transition"),
        mids=tuple(arch.whole(f"{name}.mids.{block}") for block in range(depth)),
        project=True,
    )
    if not depth:
        return shape
    form = str(arch[f"{name}.kernel"])
    kernel = Kernel(form, arch.whole(f"{name}.taps") if form == "3" else 27)
    return replace(shape, block=str(arch[f"{name}.block"]), kernel=kernel)
