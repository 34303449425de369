# SPDX-License-Identifier: MIT
"""Room for results whose size the data decide, so that nothing waits for a GPU.

An operator that is given room makes arrays of a size fixed beforehand and fills up what the data
leave: sites that do not exist are *dead* rows of coordinates, all -1, behind the live ones. They
have no neighbours, are in no cell, and no operator confuses them with a site, whose batch index is
never negative. What does not fit sets a flag on the device, and the arrays are then of no use; the
caller looks at the flag when all is done.

On a GPU the kernels do this themselves (``csrc/kernels/passes.h``). On the CPU it is composed here
from the operators without room, which says what the kernels have to do; there, arrays of pairs and
of points keep their exact sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor

__all__ = ["DEAD", "Room", "fill_up", "live", "settled"]

DEAD = -1
_Made = TypeVar("_Made", bound=tuple[Tensor, ...])


class Room(NamedTuple):
    """How many sites or pairs an operator may return.

    Attributes:
        capacity: sites or pairs.
        overflow: (1,) int32 on the device of the operator; set to 1 if there are more, or if the
            operator would have refused its input.
    """

    capacity: int
    overflow: Tensor


def live(coords: Tensor) -> Tensor:
    """The rows that are alive, on the CPU; on a GPU all, whose kernels pass over dead ones."""
    return coords if coords.is_cuda else coords[: int((coords[:, 0] != DEAD).sum())]


def fill_up(values: Tensor, size: int, value: int) -> Tensor:
    """(size, ...): the values, and then this one."""
    filled = values.new_full((size, *values.shape[1:]), value)
    filled[: len(values)] = values
    return filled


def settled(
    make: Callable[[Tensor], _Made],
    sized: int,
    coords: Tensor,
    capacity: int,
    overflow: Tensor,
) -> _Made:
    """What ``make`` returns for the live rows, or, where that does not fit, for none.

    Args:
        make: the operator without room, on the CPU.
        sized: which of its results has a row for each site or pair.
        coords: (N, 4) int32, dead rows at the end.
        capacity: see :class:`Room`.
        overflow: see :class:`Room`.
    """
    rows = live(coords)
    try:
        made = make(rows)
    except ValueError:  # the call without room, which follows, says what is wrong
        overflow.fill_(1)
        return make(rows[:0])
    if len(made[sized]) > capacity:
        overflow.fill_(1)
        return make(rows[:0])
    return made
