# SPDX-License-Identifier: MIT
"""Batch normalisation with the statistics of its own input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.columns import column_sums, scale_shift, stored
from torchsparse_lite.ops.registry import Autograd, define_op
from torchsparse_lite.ops.scratch import scratch_on

__all__ = ["batch_norm"]


def _batch_norm_native(
    feats: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x = stored(feats)
    mean, variance = (x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(2))
    C.column_moments(x, mean, variance, scratch_on(x), torch.get_num_threads())
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale_shift(x, scale, shift).to(feats.dtype), mean, variance


def _batch_norm_fake(
    feats: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = feats.new_empty(feats.shape[1], dtype=torch.float64)
    out = torch.empty_like(feats, memory_format=torch.contiguous_format)
    return out, mean, torch.empty_like(mean)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *operands, ctx.eps = inputs
    # The statistics are saved as outputs, so that a second derivative goes through them too.
    ctx.save_for_backward(*operands, *output[1:])


def _backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Any, ...]:
    feats, weight, bias, mean, variance = ctx.saved_tensors
    count = max(feats.shape[0], 1)
    total, product = column_sums(grad, feats)
    inverse_std = torch.rsqrt(variance + ctx.eps)
    along = inverse_std * (product - mean * total)  # sum of grad times normalised features
    scale = inverse_std if weight is None else inverse_std * weight
    feats_scale = (2 * grad_variance - scale * inverse_std * along) / count
    shift = (grad_mean - scale * total) / count - feats_scale * mean
    grad_feats = scale_shift(grad, scale, shift, other=feats, other_scale=feats_scale)
    _, wants_weight, wants_bias, _ = ctx.needs_input_grad
    return (
        grad_feats,
        along.to(weight.dtype) if wants_weight else None,
        total.to(bias.dtype) if wants_bias else None,
        None,
    )


_batch_norm = define_op(
    "batch_norm(Tensor feats, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
    cpu=_batch_norm_native,
    cuda=_batch_norm_native if has_cuda() else None,
    fake=_batch_norm_fake,
    autograd=Autograd(_setup, _backward),
)


def batch_norm(
    feats: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``(feats - mean) / sqrt(variance + eps) * weight + bias`` column by column.

    Args:
        feats: (N, C) floating; halves are computed in float32 and rounded once.
        weight: (C,) or None for ones.
        bias: (C,) or None for zeros.
        eps: added to the variance.

    Returns:
        (N, C), dtype of ``feats``; (C,) float64 mean and (C,) float64 biased variance, zeros where
        there are no rows. Bitwise equal for any number of threads. Differentiable any number of
        times.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015.
    """
    result: tuple[Tensor, Tensor, Tensor] = _batch_norm(feats, weight, bias, eps)
    return result
