# SPDX-License-Identifier: MIT
"""Our space for driving scenes: everything that a latency can be bought with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.models.blocks import Kernel
from torchsparse_lite.models.minkunet import Stage
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace, widths
from torchsparse_lite.nas.spaces.stages import (
    check_positive,
    size_genes,
    stage_at,
    stage_names,
    unet_of,
)

__all__ = ["lidar"]

_STEM = (16, 48)
_HIGH = (32, 64, 128, 256, 256, 128, 96, 96)
_MEETINGS = (0, 4, 6, 8)
_KERNELS: Mapping[str, Kernel] = {
    "3x3x3/7": Kernel(taps=7),
    "3x1x1": Kernel("3x1x1"),
    "3x3x3/15": Kernel(taps=15),
    "3x3x3/19": Kernel(taps=19),
    "3x3x3": Kernel(),
    "5x5x5": Kernel("5x5x5"),
}
"""Forms and taps of kernels, from cheap to dear."""
_PARTS = ("3x3x3/7", "3x1x1", "3x3x3/15", "3x3x3/19")
"""Those that do not hold the taps of all cubes before them."""
_BLOCKS = ("depthwise", "bottleneck", "residual")


def lidar(
    *,
    quantum: int = 8,
    width: float = 1.0,
    deepest: int = 4,
    voxel_sizes: Sequence[float] = (0.10, 0.075, 0.05),
    flatter: Sequence[float] = (2.0, 1.5, 1.0),
    kernels: Sequence[str] = tuple(_KERNELS),
    blocks: Sequence[str] = _BLOCKS,
    between: Sequence[int] = (32, 64, 128),
) -> SearchSpace:
    """Widths, depths, kernels and their taps, blocks, the point branch, voxels.

    Args:
        quantum: channels are multiples of it: 4, 8, 16 or 32, as the hardware likes them.
        width: factor on all ranges of channels; at 1 the widest network has those of MinkUNet-42,
            and half of them is the least of a stage.
        deepest: blocks of a stage, at most; stages on the way up can go without.
        voxel_sizes: edge lengths in metres, from cheap to dear.
        flatter: factors on the height of voxels, from cheap to dear.
        kernels: of "3x3x3/7", "3x1x1", "3x3x3/15", "3x3x3/19", "3x3x3" and "5x5x5": edges and taps,
            or three lines; in any order, as the others here. 15 taps beside 19 need one that
            holds both.
        blocks: of "depthwise", "bottleneck" and "residual".
        between: channels of a second layer in the point branch, where there is one.

    Raises:
        ValueError: a kernel or block that there is not, kernels that none holds, a number that is
            not positive, or nothing to choose from.
    """
    check_positive("lidar", quantum=quantum, width=width, deepest=deepest)
    voxel_sizes = _numbers("voxel_sizes", voxel_sizes)[::-1]
    flatter = _numbers("flatter", flatter)[::-1]
    between = _numbers("between", between) if between else []
    kernels = _known("kernels", kernels, tuple(_KERNELS))
    blocks = _known("blocks", blocks, _BLOCKS)
    options = {
        "quantum": quantum,
        "width": width,
        "deepest": deepest,
        "voxel_sizes": voxel_sizes,
        "flatter": flatter,
        "kernels": kernels,
        "blocks": blocks,
        "between": between,
    }
    names = stage_names(len(_HIGH))
    low, most_stem = (int(c * width) for c in _STEM)
    high = [int(c * width) for c in _HIGH]
    genes = [
        Gene("voxel_size", tuple(voxel_sizes)),
        Gene("flatter", tuple(flatter)),
        replace(widths("stem.channels", low, most_stem, quantum), weights=()),
        Gene("stem.depth", (1, 2)),
        *(_points_gene(meeting, between) for meeting in _MEETINGS),
    ]
    forms = [_kernels_at(number, len(names), kernels) for number in range(len(names))]
    if any({"3x3x3/15", "3x3x3/19"} <= {*own} <= {*_PARTS} for own in forms):
        rule, remedy = "with one that holds the taps of all at every stage", "Add 3x3x3."
        refuse("lidar: kernels", rule, ", ".join(kernels), remedy)
    for name, most, before, own in zip(names, high, (most_stem, *high), forms, strict=False):
        depths = tuple(range(1 if name.startswith("down") else 0, deepest + 1))
        sizes = size_genes(name, most // 2, most, before=before, depths=depths, quantum=quantum)
        # Every option as often: rounding down would leave the largest one next to nothing.
        genes += [replace(gene, weights=()) for gene in sizes]
        some = (f"{name}.depth", frozenset[Value](range(1, deepest + 1)))
        genes.append(Gene(f"{name}.kernel", own, needs=some))
        genes.append(Gene(f"{name}.block", tuple(blocks), needs=some))
    structures = (*_of_blocks(names, forms, blocks), *_of_points(between))
    return SearchSpace(_name(options), tuple(genes), _network, structures)


def _known(what: str, given: Sequence[str], known: tuple[str, ...]) -> list[str]:
    """Those given, from cheap to dear."""
    if not given:
        refuse(f"lidar: {what}", "at least one", "none", f"Choose among {', '.join(known)}.")
    for one in given:
        check_choice(f"lidar: {what}", one, known)
    return [one for one in known if one in given]


def _numbers(what: str, given: Sequence[float]) -> list[Any]:
    """Those given, ascending."""
    if not given or min(given) <= 0:
        rule = "one positive number or more"
        refuse(f"lidar: {what}", rule, list(given), "Give the options to choose from.")
    return sorted(set(given))


def _name(options: Mapping[str, Any]) -> str:
    """Another one for other options: what was found in one space is none of the other."""
    usual: dict[str, Any] = lidar.__kwdefaults__ or {}
    other = {key: value for key, value in options.items() if value != _plain(usual[key])}
    digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()
    return f"lidar-{digest[:8]}" if other else "lidar"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _points_gene(meeting: int, between: Sequence[int]) -> Gene:
    """Whether points and voxels meet behind a stage, and the layer between on the way there."""
    options: list[Value] = [] if meeting == _MEETINGS[-1] else ["off"]
    options.append("plain")
    if meeting != _MEETINGS[0]:
        options += between
    return Gene(f"points.{meeting}", tuple(options))


def _kernels_at(number: int, stages: int, kernels: Sequence[str]) -> tuple[str, ...]:
    """5x5x5 only at tensor strides 1 to 4: there are few neighbours, and few channels to weigh."""
    is_fine = min(number + 1, stages - 1 - number) <= 2
    return tuple(k for k in kernels if is_fine or k != "5x5x5" or len(kernels) == 1)


def _of_blocks(
    names: list[str], forms: list[tuple[str, ...]], blocks: Sequence[str]
) -> Iterator[dict[str, Value]]:
    """Three lines have weights of their own; all cubes share those of the largest."""
    for is_cube, block in product((False, True), blocks):
        chosen = [[k for k in own if (k != "3x1x1") == is_cube] for own in forms]
        structure: dict[str, Value] = {f"{name}.block": block for name in names}
        for name, some in zip(names, chosen, strict=True):
            if some:
                structure[f"{name}.kernel"] = some[-1]
        yield structure
    yield {f"{name}.depth": 0 for name in names if name.startswith("up")}


def _of_points(between: Sequence[int]) -> Iterator[dict[str, Value]]:
    kinds: tuple[Value, ...] = ("plain", *between[-1:])
    for count in range(len(_MEETINGS)):
        for off in combinations(_MEETINGS[:-1], count):
            for kind in kinds:
                structure: dict[str, Value] = {f"points.{m}": kind for m in _MEETINGS}
                structure[f"points.{_MEETINGS[0]}"] = "plain"  # nothing leads there
                yield structure | {f"points.{m}": "off" for m in off}


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
    kernel = _KERNELS[str(arch[f"{name}.kernel"])]
    return replace(shape, block=str(arch[f"{name}.block"]), kernel=kernel)
