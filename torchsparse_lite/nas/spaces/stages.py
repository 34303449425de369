# SPDX-License-Identifier: MIT
"""Genes of the stages of a U-Net, and the stages that they stand for."""

from __future__ import annotations

from torchsparse_lite.errors import refuse
from torchsparse_lite.models.minkunet import Stage, UNetShape
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, widths

__all__ = ["check_positive", "size_genes", "stage_at", "stage_names", "unet_of"]

_SHARE = 8  # middle and transition channels go from an eighth to all of the stage's most


def check_positive(function: str, **numbers: float) -> None:
    """Raise ValueError unless these options of a space are."""
    for name, number in numbers.items():
        if number <= 0:
            refuse(f"{function}: {name}", "positive", number, "Leave it out for the default.")


def stage_names(stages: int) -> list[str]:
    """Of as many stages, half of them on the way down."""
    half = stages // 2
    return [f"{part}.{number}" for part in ("down", "up") for number in range(half)]


def size_genes(
    name: str, low: int, high: int, *, before: int, depths: tuple[int, ...], quantum: int
) -> list[Gene]:
    """Channels of a stage, of its transition and inside its blocks, and the number of blocks.

    Args:
        name: of the stage.
        low: channels of its output, at least.
        high: at most.
        before: channels that enter it, at most.
        depths: blocks to choose from, ascending.
        quantum: channels are multiples of it.
    """
    inner = before if name.startswith("down") else high
    genes = [
        widths(f"{name}.channels", low, high, quantum),
        widths(f"{name}.transition", inner // _SHARE, inner, quantum),
        Gene(f"{name}.depth", depths),
    ]
    for block in range(depths[-1]):
        deeper = frozenset[Value](depth for depth in depths if depth > block)
        needs = (f"{name}.depth", deeper)
        genes.append(widths(f"{name}.mids.{block}", high // _SHARE, high, quantum, needs=needs))
    return genes


def stage_at(arch: Arch, name: str) -> Stage:
    """The stage that :func:`size_genes` describe. It keeps the projection of its supernet."""
    depth = arch.whole(f"{name}.depth")
    return Stage(
        channels=arch.whole(f"{name}.channels"),
        depth=depth,
        transition=arch.whole(f"{name}.transition"),
        mids=tuple(arch.whole(f"{name}.mids.{block}") for block in range(depth)),
        project=True,
    )


def unet_of(stem: tuple[int, ...], stages: list[Stage]) -> UNetShape:
    """The shape of these stages, in the order of :func:`stage_names`."""
    half = len(stages) // 2
    return UNetShape(stem, tuple(stages[:half]), tuple(stages[half:]))
