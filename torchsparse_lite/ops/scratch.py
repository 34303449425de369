# SPDX-License-Identifier: MIT
"""Temporary memory for operators on a GPU, from torch's allocator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["scratch_on"]


def scratch_on(like: Tensor) -> Callable[[int], Tensor]:
    """What the compiled module calls for bytes on the device of ``like``, as (bytes,) uint8.

    It keeps them for one call. On the CPU it asks for none.
    """

    def scratch(size: int) -> Tensor:
        return like.new_empty(size, dtype=torch.uint8)

    return scratch
