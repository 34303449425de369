# SPDX-License-Identifier: MIT
"""How large arrays become whose sizes the data decide: sites and pairs.

As a rule as large as it takes, for which a GPU has to be waited for each time. :class:`Capacities`
fixes the sizes beforehand, so that a whole network can be recorded and played again on other input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchsparse_lite.errors import refuse
from torchsparse_lite.ops.room import Room

__all__ = ["EXACT", "Capacities", "Sizes", "check_exact"]

_STEP = 256


class Sizes:
    """As large as it takes. Levels and points carry their sizes along."""

    overflow: Tensor | None = None
    """(1,) int32 that is set where something does not fit; None if sizes are not fixed."""

    @property
    def is_fixed(self) -> bool:
        """Whether rows may be dead, see :mod:`torchsparse_lite.ops.room`."""
        return self.overflow is not None

    def rows_for(self, count: int) -> int:
        """Rows of an array that is made for this many sites or pairs."""
        return count

    def sites(self, most: int, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """``operator(*args, **options)``, which returns sites.

        Args:
            most: how many there can be.
            operator: returns coordinates, alone or before other things; it takes ``room``.
            *args: of the operator.
            **options: of the operator.
        """
        return operator(*args, **options)

    def pairs(self, most: int, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same for an operator that returns a neighbour table."""
        return operator(*args, **options)


EXACT = Sizes()


class Capacities(Sizes):
    """Fixed sizes, in proportion to those of an example.

    A network makes the same arrays in the same order whatever its input. On the first run, the
    plan, each operator is asked how much it returns for the example; on later ones it gets the
    capacity that stands at its place in that order.

    Args:
        device: where the network runs.
        ratio: capacity by size of the example, at least 1.
    """

    def __init__(self, device: torch.device, ratio: float) -> None:
        self.overflow: Tensor = torch.zeros(1, dtype=torch.int32, device=device)
        self._ratio = ratio
        self._capacities: list[int] = []
        self._place = 0
        self._is_planned = False

    def begin(self) -> None:
        """Before each run: forget what did not fit; after the first one the plan is made."""
        self.overflow.zero_()
        self._is_planned = self._is_planned or bool(self._capacities)
        self._place = 0

    def rows_for(self, count: int) -> int:
        """More, in proportion, in steps."""
        return -(-int(count * self._ratio + 1) // _STEP) * _STEP

    def sites(self, most: int, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The operator with room for sites."""
        return self._made(most, _count_sites, operator, args, options)

    def pairs(self, most: int, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The operator with room for pairs."""
        return self._made(most, _count_pairs, operator, args, options)

    def _made(
        self,
        most: int,
        count: Callable[[Any], int],
        operator: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        if not self._is_planned:
            whole = operator(*args, **options, room=Room(most, self.overflow))
            self._capacities.append(min(most, self.rows_for(count(whole))))
        capacity = self._capacities[self._place]
        self._place += 1
        return operator(*args, **options, room=Room(capacity, self.overflow))

    def __repr__(self) -> str:
        return f"Capacities({self._capacities})"


def check_exact(where: str, sizes: Sizes) -> None:
    """Raise if rows may be dead, where they would be taken for live ones."""
    if sizes.is_fixed:
        found, remedy = "rows that may be dead", "Run this network without capture."
        refuse(where, "outside of a captured graph", found, remedy)


def _count_sites(made: Tensor | tuple[Tensor, ...]) -> int:
    coords = made if isinstance(made, Tensor) else made[0]
    return int((coords[:, 0] >= 0).sum())


def _count_pairs(table: tuple[Tensor, Tensor, Tensor]) -> int:
    return int(table[1][-1])
