# SPDX-License-Identifier: MIT
"""The search spaces that come with the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.spaces.lidar import lidar
from torchsparse_lite.nas.spaces.pruning import pruning, pruning_of
from torchsparse_lite.nas.spaces.pvcnn import pvcnn_grid
from torchsparse_lite.nas.spaces.spvnas import spvnas

__all__ = ["SPACES", "lidar", "pruning", "pruning_of", "pvcnn_grid", "search_space", "spvnas"]

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "spvnas": spvnas,
    "lidar": lidar,
    "pvcnn": pvcnn_grid,
    "pruning": pruning,
}
"""Functions that make a space, by the name of the kind."""


def search_space(kind: str, **options: Any) -> SearchSpace:
    """A space by the name of its kind.

    Args:
        kind: a key of :data:`SPACES`.
        **options: of the function.

    Raises:
        TypeError: the function has no such option.
        ValueError: no such kind.
    """
    check_choice("search_space: kind", kind, SPACES)
    try:
        return SPACES[kind](**options)
    except TypeError as wrong:
        remedy = f"See nas.{SPACES[kind].__name__}."
        refuse("search_space: options", f"those of {kind}", str(wrong), remedy, error=TypeError)
