# SPDX-License-Identifier: MIT
"""Windowed pooling over a kernel map: sums and maxima."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.channelwise_conv import channelwise_conv
from torchsparse_lite.ops.map_arrays import PairLists, Pairs
from torchsparse_lite.ops.pairs import tile_rows
from torchsparse_lite.ops.registry import Autograd, define_op
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.widen import widened

__all__ = ["sparse_max_pool", "sparse_sum_pool"]


def _sum_pool_native(
    feats: Tensor,
    pairs: list[Tensor],
    backward_pairs: list[Tensor],
    num_out: int,
    is_symmetric: bool,
) -> Tensor:
    return channelwise_conv(feats, None, PairLists(*pairs), num_out)


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    feats, pairs, backward_pairs, _, is_symmetric = inputs
    argmax = output[1] if isinstance(output, tuple) else None
    ctx.save_for_backward(argmax, *pairs, *backward_pairs)
    ctx.num_in, ctx.is_symmetric = feats.shape[0], is_symmetric
    ctx.no_grads = [None] * len(pairs), [None] * len(backward_pairs), None, None
    if argmax is not None:
        ctx.mark_non_differentiable(argmax)


def _saved(ctx: Any) -> tuple[Tensor | None, PairLists, PairLists]:
    """The rows of maxima, the transposed map and the map."""
    argmax, in_index, out_index, tile_ptr, *backward = ctx.saved_tensors
    forward = PairLists(in_index, out_index, tile_ptr)
    if ctx.is_symmetric:
        return argmax, forward, forward
    return argmax, PairLists(*backward) if backward else forward.transposed(ctx.num_in), forward


def _sum_pool_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    _, backward, forward = _saved(ctx)
    grad_feats = _sum_pool(grad, list(backward), list(forward), ctx.num_in, ctx.is_symmetric)
    return grad_feats, *ctx.no_grads


_sum_pool = define_op(
    "sparse_sum_pool(Tensor feats, Tensor[] pairs, Tensor[] backward_pairs, SymInt num_out, "
    "bool is_symmetric) -> Tensor",
    cpu=_sum_pool_native,
    cuda=_sum_pool_native if has_cuda() else None,
    fake=lambda feats, pairs, backward_pairs, num_out, is_symmetric: feats.new_empty(
        (num_out, feats.shape[1])
    ),
    autograd=Autograd(_pool_setup, _sum_pool_backward),
)


def sparse_sum_pool(feats: Tensor, pairs: Pairs) -> Tensor:
    """Sum of the inputs of each window.

    Args:
        feats: (num_in, channels), floating.
        pairs: the kernel map.

    Returns:
        (num_out, channels), dtype of ``feats``; zero where a window holds no input. Twice
        differentiable.
    """
    result: Tensor = _sum_pool(
        feats,
        list(pairs.forward.lists),
        list(pairs.backward.lists) if pairs.backward else [],
        pairs.num_out,
        pairs.is_symmetric,
    )
    return result


def _max_pool_native(
    feats: Tensor,
    pairs: list[Tensor],
    backward_pairs: list[Tensor],
    num_out: int,
    is_symmetric: bool,
) -> tuple[Tensor, Tensor]:
    x = widened(feats)
    out = x.new_empty((num_out, x.shape[1]))
    argmax = torch.empty_like(out, dtype=torch.int32)
    rows, threads = tile_rows(num_out), torch.get_num_threads()
    C.max_pool(x, *PairLists(*pairs), rows, out, argmax, scratch_on(x), threads)
    return out.to(feats.dtype), argmax


def _max_pool_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    argmax, backward = _saved(ctx)[:2]
    return _max_pool_grad(grad, argmax, list(backward), ctx.num_in), *ctx.no_grads


_max_pool = define_op(
    "sparse_max_pool(Tensor feats, Tensor[] pairs, Tensor[] backward_pairs, SymInt num_out, "
    "bool is_symmetric) -> (Tensor, Tensor)",
    cpu=_max_pool_native,
    cuda=_max_pool_native if has_cuda() else None,
    fake=lambda feats, pairs, backward_pairs, num_out, is_symmetric: (
        feats.new_empty((num_out, feats.shape[1])),
        feats.new_empty((num_out, feats.shape[1]), dtype=torch.int32),
    ),
    autograd=Autograd(_pool_setup, _max_pool_backward),
)


def _max_pool_grad_native(
    grad: Tensor, argmax: Tensor, backward_pairs: list[Tensor], num_in: int
) -> Tensor:
    wide = widened(grad)
    grad_feats = wide.new_empty((num_in, grad.shape[1]))
    C.max_pool_backward(
        wide,
        argmax,
        *PairLists(*backward_pairs),
        tile_rows(num_in),
        grad_feats,
        scratch_on(wide),
        torch.get_num_threads(),
    )
    return grad_feats.to(grad.dtype)


def _max_pool_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.num_pairs_arrays = len(inputs[2])


def _max_pool_grad_backward(ctx: Any, grad_feats: Tensor) -> tuple[Any, ...]:
    (argmax,) = ctx.saved_tensors
    if len(grad_feats) == 0:
        grad = grad_feats.new_zeros(argmax.shape)
    else:
        grad = grad_feats.gather(0, argmax.clamp_min(0).long()) * (argmax >= 0)
    return grad, None, [None] * ctx.num_pairs_arrays, None


_max_pool_grad = define_op(
    "sparse_max_pool_grad(Tensor grad, Tensor argmax, Tensor[] backward_pairs, SymInt num_in) "
    "-> Tensor",
    cpu=_max_pool_grad_native,
    cuda=_max_pool_grad_native if has_cuda() else None,
    fake=lambda grad, argmax, backward_pairs, num_in: grad.new_empty((num_in, grad.shape[1])),
    autograd=Autograd(_max_pool_grad_setup, _max_pool_grad_backward),
)


def sparse_max_pool(feats: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Maximum of the inputs of each window; NaN counts as the largest, as in torch.

    Args:
        feats: (num_in, channels), floating.
        pairs: the kernel map.

    Returns:
        (num_out, channels) maxima, 0 where a window holds no input, and (num_out, channels) int32
        input rows they come from, -1 where there is none. The gradient goes to those rows. Twice
        differentiable.
    """
    result: tuple[Tensor, Tensor] = _max_pool(
        feats,
        list(pairs.forward.lists),
        list(pairs.backward.lists) if pairs.backward else [],
        pairs.num_out,
        pairs.is_symmetric,
    )
    return result
