# SPDX-License-Identifier: MIT
"""Our space for driving scenes: everything that a latency can be bought with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from torchsparse_lite.kernel_map import STENCILS
from torchsparse_lite.models.blocks import Kernel
from torchsparse_lite.models.minkunet import Stage
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace, widths
from torchsparse_lite.nas.spaces.stages import size_genes, stage_at, stage_names, unet_of

__all__ = ["lidar"]

_HIGH = (32, 64, 128, 256, 256, 128, 96, 96)
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
    names = stage_names(len(high))
    for number, (stage, most) in enumerate(zip(names, high, strict=True)):
        depths = tuple(range(1 if stage.startswith("down") else 0, deepest + 1))
        before = (48, *high)[number]
        genes += size_genes(stage, most // 2, most, before=before, depths=depths, quantum=quantum)
        genes += _kind_genes(stage, _kernels(number, len(names)), deepest)
    return SearchSpace(name, tuple(genes), _network, tuple(_structures(names)))


def _points_gene(meeting: int) -> Gene:
    """Whether points and voxels meet behind a stage, and the layer between on the way there."""
    options: list[Value] = [] if meeting == _MEETINGS[-1] else ["off"]
    options.append("plain")
    if meeting != _MEETINGS[0]:
        options += _BETWEEN
    return Gene(f"points.{meeting}", tuple(options))


def _kind_genes(stage: str, kernels: tuple[Value, ...], deepest: int) -> list[Gene]:
    """What the blocks of a stage are, if it has any."""
    some = (f"{stage}.depth", frozenset[Value](range(1, deepest + 1)))
    cube = (f"{stage}.kernel", frozenset[Value]({"3"}))
    return [
        Gene(f"{stage}.kernel", kernels, needs=some),
        Gene(f"{stage}.taps", tuple(sorted(STENCILS)), needs=cube),
        Gene(f"{stage}.block", _BLOCKS, needs=some),
    ]


def _kernels(number: int, stages: int) -> tuple[Value, ...]:
    """5x5x5 only at tensor strides 1 to 4: there are few neighbours, and few channels to weigh."""
    is_fine = min(number + 1, stages - 1 - number) <= 2
    return _KERNELS if is_fine else _KERNELS[:-1]


def _structures(names: list[str]) -> Iterator[dict[str, Value]]:
    for form, block in product(range(len(_KERNELS)), _BLOCKS):
        structure: dict[str, Value] = {f"{name}.block": block for name in names}
        for number, name in enumerate(names):
            forms = _kernels(number, len(names))
            structure[f"{name}.kernel"] = forms[min(form, len(forms) - 1)]
        yield structure
    yield {f"{name}.depth": 0 for name in names if name.startswith("up")}
    for count in range(len(_MEETINGS)):
        for off in combinations(_MEETINGS[:-1], count):
            for kind in ("plain", _BETWEEN[-1]):
                on = {m: kind if m else "plain" for m in _MEETINGS if m not in off}
                yield {f"points.{m}": on.get(m, "off") for m in _MEETINGS}


def _network(arch: Arch, **options: Any) -> SPVCNN:
    names = [gene.removesuffix(".depth") for gene in arch if gene.endswith(".depth")]
    names.remove("stem")
    stem = (arch.whole("stem.channels"),) * arch.whole("stem.depth")
    shape = unet_of(stem, [_stage(arch, name) for name in names])
    points = {meeting: arch[f"points.{meeting}"] for meeting in _MEETINGS}
    meetings = [meeting for meeting, kind in points.items() if kind != "off"]
    between = {m: int(points[m]) for m in meetings[1:] if points[m] != "plain"}
    edge = float(arch["voxel_size"])
    size = (edge, edge, edge * float(arch["flatter"]))
    return SPVCNN(shape=shape, voxel_size=size, meetings=meetings, point_widths=between, **options)


def _stage(arch: Arch, name: str) -> Stage:
    shape = stage_at(arch, name)
    if not shape.depth:
        return shape
    form = str(arch[f"{name}.kernel"])
    kernel = Kernel(form, arch.whole(f"{name}.taps") if form == "3" else 27)
    return replace(shape, block=str(arch[f"{name}.block"]), kernel=kernel)
