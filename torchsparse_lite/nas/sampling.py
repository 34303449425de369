# SPDX-License-Identifier: MIT
"""Which subnets a training step trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.space import Gene, SearchSpace

__all__ = ["PHASES", "ArchSampler", "Phase"]

Narrow = Callable[[Gene], tuple[Value, ...]]


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Attributes:
        until: share of the training at which it ends.
        options: of each gene, those that are drawn.
    """

    until: float
    options: Narrow


def _free(*kinds: str) -> Narrow:
    """Everything of these genes, by the parts of their names; the largest of the others."""

    def options(gene: Gene) -> tuple[Value, ...]:
        is_free = any(part in kinds for part in gene.name.split("."))
        return gene.options if is_free else gene.options[-1:]

    return options


def _depth_from_above(share: float) -> Narrow:
    """All genes, but of depths only the upper share."""

    def options(gene: Gene) -> tuple[Value, ...]:
        if not gene.name.endswith("depth"):
            return gene.options
        return gene.options[-max(round(share * len(gene.options)), 1) :]

    return options


_SHAPE = ("kernel", "taps", "block", "points", "voxel_size", "flatter", "resolution")
PHASES: dict[str, tuple[Phase, ...]] = {
    "all": (Phase(1.0, lambda gene: gene.options),),
    "depth": (Phase(0.5, _depth_from_above(0.5)), Phase(1.0, lambda gene: gene.options)),
    "ofa": (
        Phase(0.25, _free(*_SHAPE)),
        Phase(0.5, _free(*_SHAPE, "depth")),
        Phase(1.0, lambda gene: gene.options),
    ),
}
"""Courses of a training: everything from the start; deep networks first, as SPVNAS; kernels, then
depths, then widths, as Once-for-All."""


@dataclass(frozen=True)
class ArchSampler:
    """Draws subnets; a function of seed, step and rank alone, so a resumed run draws the same.

    Attributes:
        space: to draw from.
        phases: one of :data:`PHASES`, or phases of one's own in ascending order.
        count: subnets that are drawn for a step, each process its own.
        sandwich: put the largest of the phase in front, from which the others can learn, and the
            smallest behind.
        seed: of the draws.

    Source: a random subnet per process as Tang et al., ECCV 2020; the sandwich rule of Yu and
    Huang, "Universally Slimmable Networks", ICCV 2019.
    """

    space: SearchSpace
    phases: str | Sequence[Phase] = "all"
    count: int = 1
    sandwich: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.phases, str):
            check_choice("ArchSampler: phases", self.phases, PHASES)
        elif not self.phases or self.phases[-1].until < 1:
            remedy = "Let the last phase end at 1."
            refuse("ArchSampler: phases", "up to the end of the training", self.phases, remedy)
        if self.count < (0 if self.sandwich else 1):
            refuse("ArchSampler: count", "at least 1", self.count, "Draw a subnet for each step.")

    @cached_property
    def _spaces(self) -> list[tuple[float, SearchSpace]]:
        phases = PHASES[self.phases] if isinstance(self.phases, str) else self.phases
        return [(phase.until, _narrowed(self.space, phase.options)) for phase in phases]

    def phase_at(self, progress: float) -> int:
        """Number of a phase, counted from 0.

        Args:
            progress: share of the training that is done.
        """
        ends = (until for until, _ in self._spaces)
        return next(n for n, until in enumerate(ends) if progress < until or until >= 1)

    @cached_property
    def widening(self) -> int | None:
        """The phase that is the first to draw fewer channels than the most.

        None if that is the first of all, or if there is none.
        """
        for number, (_, space) in enumerate(self._spaces):
            whole = self.space.by_name
            if any(g.is_width and g.options != whole[g.name].options[-1:] for g in space.genes):
                return number or None
        return None

    def draw(self, step: int, progress: float, rank: int = 0) -> list[Arch]:
        """The subnets of one step.

        Args:
            step: of the training, counted from 0.
            progress: share of the training that is done.
            rank: of the process.
        """
        _, space = self._spaces[self.phase_at(progress)]
        rng = np.random.default_rng([self.seed, step, rank])
        drawn = [space.sample(rng) for _ in range(self.count)]
        return [space.largest, *drawn, space.smallest] if self.sandwich else drawn


def _narrowed(space: SearchSpace, options: Narrow) -> SearchSpace:
    """The space with fewer options, drawn as often as before beside each other."""
    genes = []
    for gene in space.genes:
        left = options(gene)
        weights = tuple(
            weight
            for option, weight in zip(gene.options, gene.weights, strict=False)
            if option in left
        )
        genes.append(replace(gene, options=left, weights=weights))
    return replace(space, genes=tuple(genes))
