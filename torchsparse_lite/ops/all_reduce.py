# SPDX-License-Identifier: MIT
"""Sums over the processes of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["all_reduce", "has_processes"]


def has_processes() -> bool:
    """Whether this process trains together with others, or could."""
    return distributed.is_available() and distributed.is_initialized()


def all_reduce(values: Tensor, group: Any = None) -> Tensor:
    """Sum over the processes; gradients are summed on the way back.

    Args:
        values: of one shape and dtype in all processes.
        group: the processes; by default all.
    """
    total: Tensor = _AllReduce.apply(values, group)
    return total


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=ctx.group)
        return total, None
