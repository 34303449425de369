# SPDX-License-Identifier: MIT
"""Reduction of rows that belong together: points of a voxel, voxels of a batch element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.errors import check_choice
from torchsparse_lite.ops.registry import Autograd, define_op
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.widen import sum_dtype, widened

__all__ = ["segment_reduce", "segments"]

_REDUCTIONS = ("sum", "mean", "max")


def _segment_reduce_native(
    feats: Tensor, order: Tensor, ptr: Tensor, reduce: str
) -> tuple[Tensor, Tensor]:
    x = widened(feats)
    shape = (ptr.shape[0] - 1, x.shape[1])
    out = x.new_empty(shape)
    argmax = ptr.new_empty(shape if reduce == "max" else (0, x.shape[1]))
    C.segment_reduce(
        x,
        order.contiguous(),
        ptr.contiguous(),
        reduce,
        out,
        argmax if reduce == "max" else None,
        scratch_on(x),
        torch.get_num_threads(),
    )
    return out.to(feats.dtype), argmax


def _segment_reduce_fake(
    feats: Tensor, order: Tensor, ptr: Tensor, reduce: str
) -> tuple[Tensor, Tensor]:
    shape = (ptr.shape[0] - 1, feats.shape[1])
    argmax = ptr.new_empty(shape if reduce == "max" else (0, feats.shape[1]))
    return feats.new_empty(shape), argmax


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    feats, order, ptr, reduce = inputs
    ctx.save_for_backward(order, ptr, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.num_in, ctx.reduce = feats.shape[0], reduce


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    order, ptr, argmax = ctx.saved_tensors
    if ctx.reduce == "max":
        # A row belongs to one segment, so no two maxima point at the same element. Empty segments
        # point behind the last row.
        grad_feats = grad.new_zeros((ctx.num_in + 1, grad.shape[1]))
        rows = argmax.masked_fill(argmax < 0, ctx.num_in)
        return grad_feats.scatter(0, rows, grad)[:-1], None, None, None
    grad_feats = grad.new_zeros((ctx.num_in, grad.shape[1]))
    counts = ptr.diff()
    if ctx.reduce == "mean":
        # In the wide type: float16 cannot hold the number of points of a large segment.
        wide = grad.to(sum_dtype(grad.dtype))
        grad = (wide / counts.clamp_min(1).unsqueeze(1)).to(grad.dtype)
    segment = torch.repeat_interleave(counts, output_size=order.shape[0])
    return grad_feats.index_copy(0, order, grad.index_select(0, segment)), None, None, None


def segments(
    segment: Tensor, count: int, *, order: Tensor | None = None, exact: bool = True
) -> tuple[Tensor, Tensor]:
    """Rows grouped by segment, as :func:`segment_reduce` takes them.

    Args:
        segment: (N,) int64 in [0, count), or -1 for a row that belongs to none.
        count: number of segments.
        order: (N,) int64, a grouping of all rows that is tried before sorting; by default the rows
            as they come.
        exact: False on a GPU saves waiting for it: rows that belong to none follow at the end of
            the order, behind where ``ptr`` ends.

    Returns:
        order (M,) int64, the rows segment after segment (as they come inside one, without
        ``order``), and ptr (count + 1,) int64.
    """
    if order is None:
        order = torch.arange(segment.shape[0], device=segment.device)
    if segment.is_cuda:
        return _segments_at_once(segment, count, order, exact=exact)
    place = torch.where(segment < 0, count, segment)  # those that belong to none come last
    if bool((place[order].diff() < 0).any()):
        order = torch.argsort(place, stable=True)
    counts = torch.bincount(place, minlength=count + 1)[:count]
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return order[: int(ptr[-1])], ptr


def _segments_at_once(
    segment: Tensor, count: int, order: Tensor, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """The same without branches on data: waits for the device at most once."""
    place = torch.where(segment < 0, count, segment)
    is_grouped = (place[order].diff() >= 0).all()
    order = torch.where(is_grouped, order, torch.argsort(place, stable=True))
    ptr = torch.searchsorted(place[order], torch.arange(count + 1, device=segment.device))
    return order[: int(ptr[-1])] if exact else order, ptr


_segment_reduce = define_op(
    "segment_reduce(Tensor feats, Tensor order, Tensor ptr, str reduce) -> (Tensor, Tensor)",
    cpu=_segment_reduce_native,
    cuda=_segment_reduce_native if has_cuda() else None,
    fake=_segment_reduce_fake,
    autograd=Autograd(_setup, _backward),
)


def segment_reduce(
    feats: Tensor, order: Tensor, ptr: Tensor, *, reduce: str
) -> tuple[Tensor, Tensor]:
    """Reduce the rows ``order[ptr[s]:ptr[s + 1]]`` of ``feats`` into row ``s``.

    Args:
        feats: (N, C) floating; sums and means lose no digits to the number of rows.
        order: (M,) int64 distinct rows, segment after segment.
        ptr: (S + 1,) int64, from 0 to M.
        reduce: "sum", "mean" or "max".

    Returns:
        (S, C), dtype of ``feats``, 0 for empty segments; and for "max" the (S, C) int64 rows of the
        maxima, -1 for empty segments.

    Raises:
        ValueError: unknown ``reduce``; ``order`` or ``ptr`` point at rows that do not exist.
    """
    check_choice("segment_reduce: reduce", reduce, _REDUCTIONS)
    result: tuple[Tensor, Tensor] = _segment_reduce(feats, order, ptr, reduce)
    return result
