# SPDX-License-Identifier: MIT
"""Sums over rows, and their adjoint: every column scaled and shifted.

Each of the two is the derivative of the other, so that both can be differentiated any number of
times. The sums are taken over blocks of rows that do not depend on the threads or the device, in
float64 (on a GPU, floats and halves in pairs of floats): biases and norms get the same gradient bit
by bit on any number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import Autograd, define_op
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.widen import sum_dtype

__all__ = ["column_sums", "scale_shift", "stored"]


def stored(tensor: Tensor) -> Tensor:
    """The tensor as the kernels of its device read it, contiguous.

    On the CPU float16, which is costly to convert there, as float32.
    """
    is_costly = tensor.dtype == torch.float16 and not tensor.is_cuda
    return tensor.to(torch.float32 if is_costly else tensor.dtype).contiguous()


def _column_sums_native(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    total, product = _column_sums_fake(a, b)
    first = stored(a)
    C.column_sums(
        first,
        None if b is None else b.to(first.dtype).contiguous(),
        total,
        None if b is None else product,
        scratch_on(first),
        torch.get_num_threads(),
    )
    return total, product


def _column_sums_fake(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    channels = a.shape[1]
    total = a.new_empty(channels, dtype=torch.float64)
    return total, total.new_empty(0 if b is None else channels)


def _sums_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _sums_backward(ctx: Any, grad_sum: Tensor, grad_product: Tensor) -> tuple[Any, ...]:
    a, b = ctx.saved_tensors
    if b is None:
        return grad_sum.to(a.dtype).expand_as(a), None
    wants_a, wants_b = ctx.needs_input_grad
    grad_a = scale_shift(b, grad_product, grad_sum).to(a.dtype) if wants_a else None
    grad_b = scale_shift(a, grad_product).to(b.dtype) if wants_b else None
    return grad_a, grad_b


_column_sums = define_op(
    "column_sums(Tensor a, Tensor? b) -> (Tensor, Tensor)",
    cpu=_column_sums_native,
    cuda=_column_sums_native if has_cuda() else None,
    fake=_column_sums_fake,
    autograd=Autograd(_sums_setup, _sums_backward),
)


def column_sums(a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum every column of ``a``, and of ``a * b``.

    Args:
        a: (N, C) floating.
        b: (N, C), read in the dtype of ``a``, or None.

    Returns:
        (C,) float64 sums of ``a``, and (C,) float64 sums of ``a * b``; the second is empty without
        ``b``. Bitwise equal for any number of threads. Differentiable any number of times.
    """
    result: tuple[Tensor, Tensor] = _column_sums(a, b)
    return result


def _scale_shift_native(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    other: Tensor | None,
    other_scale: Tensor | None,
) -> Tensor:
    first = stored(x)
    out = torch.empty_like(first)

    def factor(vector: Tensor) -> Tensor:
        return vector.to(sum_dtype(first.dtype)).contiguous()

    C.scale_shift(
        first,
        factor(scale),
        None if shift is None else factor(shift),
        None if other is None else other.to(first.dtype).contiguous(),
        None if other_scale is None else factor(other_scale),
        out,
        torch.get_num_threads(),
    )
    return out.to(x.dtype)


def _scale_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scale_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, scale, shift, other, other_scale = ctx.saved_tensors
    wants_x, wants_scale, wants_shift, wants_other, wants_other_scale = ctx.needs_input_grad
    grad_scale = grad_shift = grad_other = grad_other_scale = None
    if wants_scale or wants_shift:
        total, product = column_sums(grad, x if wants_scale else None)
        grad_scale = product.to(scale.dtype) if wants_scale else None
        grad_shift = total.to(shift.dtype) if wants_shift else None
    if wants_other:
        grad_other = scale_shift(grad, other_scale).to(other.dtype)
    if wants_other_scale:
        grad_other_scale = column_sums(grad, other)[1].to(other_scale.dtype)
    grad_x = scale_shift(grad, scale) if wants_x else None
    return grad_x, grad_scale, grad_shift, grad_other, grad_other_scale


_scale_shift = define_op(
    "scale_shift(Tensor x, Tensor scale, Tensor? shift, Tensor? other, Tensor? other_scale) "
    "-> Tensor",
    cpu=_scale_shift_native,
    cuda=_scale_shift_native if has_cuda() else None,
    fake=lambda x, scale, shift, other, other_scale: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    autograd=Autograd(_scale_setup, _scale_backward),
)


def scale_shift(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    *,
    other: Tensor | None = None,
    other_scale: Tensor | None = None,
) -> Tensor:
    """Compute ``x * scale + other * other_scale + shift`` with one factor per column.

    Args:
        x: (N, C) floating; halves are computed in float32 and rounded once.
        scale: (C,) floating, as all other vectors.
        shift: (C,) or None.
        other: (N, C), read in the dtype of ``x``, with its ``other_scale`` (C,); or None.
        other_scale: see ``other``.

    Returns:
        (N, C), dtype of ``x``. Differentiable any number of times.
    """
    result: Tensor = _scale_shift(x, scale, shift, other, other_scale)
    return result
