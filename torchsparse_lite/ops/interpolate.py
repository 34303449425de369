# SPDX-License-Identifier: MIT
"""Weighted sums of a few rows: trilinear devoxelisation, three-nearest-neighbour interpolation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import Autograd, define_op
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.widen import sum_dtype, widened

__all__ = ["interpolate"]


def _factors(weight: Tensor, feats: Tensor) -> Tensor:
    """The weights as the kernels read them beside ``feats``."""
    return weight.to(sum_dtype(feats.dtype)).contiguous()


def _interpolate_native(feats: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    x, threads = widened(feats), torch.get_num_threads()
    out = x.new_empty((index.shape[0], x.shape[1]))
    C.interpolate(x, index.contiguous(), _factors(weight, x), out, threads)
    return out.to(feats.dtype)


def _interpolate_grad_native(grad: Tensor, index: Tensor, weight: Tensor, num_rows: int) -> Tensor:
    g, threads = widened(grad), torch.get_num_threads()
    grad_feats = g.new_empty((num_rows, g.shape[1]))
    factors = _factors(weight, g)
    C.interpolate_backward(g, index.contiguous(), factors, grad_feats, scratch_on(g), threads)
    return grad_feats.to(grad.dtype)


def _weight_grad(feats: Tensor, index: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, k) inner products of the rows that were read with the gradient that comes back."""
    if len(feats) == 0:
        return grad.new_zeros(index.shape, dtype=dtype)
    wide = grad.to(sum_dtype(grad.dtype))
    terms = [
        (feats.index_select(0, rows.clamp_min(0)).to(wide.dtype) * wide).sum(1) * (rows >= 0)
        for rows in index.unbind(1)
    ]
    return torch.stack(terms, dim=1).to(dtype)


def _grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _grad_backward(ctx: Any, grad_feats: Tensor) -> tuple[Any, ...]:
    grad, index, weight = ctx.saved_tensors
    wants_grad, _, wants_weight, _ = ctx.needs_input_grad
    return (
        _interpolate(grad_feats, index, weight) if wants_grad else None,
        None,
        _weight_grad(grad_feats, index, grad, weight.dtype) if wants_weight else None,
        None,
    )


_interpolate_grad = define_op(
    "interpolate_grad(Tensor grad, Tensor index, Tensor weight, SymInt num_rows) -> Tensor",
    cpu=_interpolate_grad_native,
    cuda=_interpolate_grad_native if has_cuda() else None,
    fake=lambda grad, index, weight, num_rows: grad.new_empty((num_rows, grad.shape[1])),
    autograd=Autograd(_grad_setup, _grad_backward),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    feats, index, weight = ctx.saved_tensors
    wants_feats, _, wants_weight = ctx.needs_input_grad
    return (
        _interpolate_grad(grad, index, weight, feats.shape[0]) if wants_feats else None,
        None,
        _weight_grad(feats, index, grad, weight.dtype) if wants_weight else None,
    )


_interpolate = define_op(
    "interpolate(Tensor feats, Tensor index, Tensor weight) -> Tensor",
    cpu=_interpolate_native,
    cuda=_interpolate_native if has_cuda() else None,
    fake=lambda feats, index, weight: feats.new_empty((index.shape[0], feats.shape[1])),
    autograd=Autograd(_setup, _backward),
)


def interpolate(feats: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Compute ``out[i] = sum over j of weight[i, j] * feats[index[i, j]]``.

    Args:
        feats: (V, C) floating.
        index: (N, k) int64 rows of ``feats``; -1 skips the term.
        weight: (N, k) floating.

    Returns:
        (N, C), dtype of ``feats``. Twice differentiable in feats and weight; the gradient is
        collected row by row in a fixed order.

    Raises:
        ValueError: an index is neither a row nor -1.
    """
    result: Tensor = _interpolate(feats, index, weight)
    return result
