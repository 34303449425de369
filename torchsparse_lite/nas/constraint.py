# SPDX-License-Identifier: MIT
"""What architectures may cost, and how they come to meet it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.space import SearchSpace

__all__ = ["Constraint", "Fit"]


@dataclass(frozen=True)
class Constraint:
    """What an architecture may cost.

    Attributes:
        name: of the cost, with its unit.
        limit: the most.
        cost: of an architecture, known before it is looked at.
        score: by name, what looking at it tells of the same cost, if that can be more.
    """

    name: str
    limit: float
    cost: Callable[[Arch], float]
    score: str | None = None

    def is_met(self, arch: Arch) -> bool:
        """Whether the architecture costs no more."""
        return self.cost(arch) <= self.limit

    def is_kept(self, scores: Mapping[str, float]) -> bool:
        """Whether an architecture with these scores costs no more, now that it was looked at."""
        return self.score is None or scores[self.score] <= self.limit


class Fit:
    """Makes architectures meet a constraint.

    Args:
        space: of the architectures.
        constraint: all meet None.

    Raises:
        ValueError: not even the cheapest architecture meets it; the message says what that costs.
    """

    def __init__(self, space: SearchSpace, constraint: Constraint | None) -> None:
        self._space = space
        self._constraint = constraint
        self._binds = False
        if constraint is not None:
            self._cheapest = _meeting(constraint, space)
            self._binds = not constraint.is_met(space.largest)

    def __call__(self, arch: Arch, *, fill: bool = False) -> Arch:
        """The architecture or one near it that meets the constraint.

        Args:
            arch: of the space.
            fill: make it as wide as the constraint allows, if that is not as wide as can be.
        """
        if self._constraint is None:
            return arch
        fitting = self._space.repair(arch, self._constraint.is_met, fill=fill and self._binds)
        return self._cheapest if fitting is None else fitting

    def is_kept(self, scores: Mapping[str, float]) -> bool:
        """Whether an architecture with these scores still meets the constraint."""
        return self._constraint is None or self._constraint.is_kept(scores)


def _meeting(constraint: Constraint, space: SearchSpace) -> Arch:
    """An architecture that meets the constraint, as cheap as they come."""
    if constraint.is_met(space.smallest):
        return space.smallest
    cheapest = space.cheapest(constraint.cost)
    if not constraint.is_met(cheapest):
        refuse(
            f"search: limit of {constraint.name}",
            f"at least {constraint.cost(cheapest):.4g}, the cheapest architecture seen",
            f"{constraint.limit:.4g}",
            "Raise the limit, or search a space with smaller networks.",
        )
    return cheapest
