# SPDX-License-Identifier: MIT
"""Sparse convolution over a kernel map, and its gradients.

The adjoint of a convolution is a convolution too: over the transposed map, with the weight
transposed. One operator therefore serves the forward pass, the input gradient and the second
derivative; flags say how the stored weight is to be read. On a GPU it is computed by
:mod:`torchsparse_lite.ops.gemm` where that fits, and else by
:mod:`torchsparse_lite.ops.plain_conv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops import gemm, plain_conv
from torchsparse_lite.ops.channelwise_conv import channelwise_conv, channelwise_weight_grad
from torchsparse_lite.ops.columns import column_sums
from torchsparse_lite.ops.packed_weight import PackedWeight, kept_weight
from torchsparse_lite.ops.pairs import tap_begins, tile_pairs, tile_rows, transpose_pairs
from torchsparse_lite.ops.registry import Autograd, computed_dtype, define_op
from torchsparse_lite.ops.widen import sum_dtype

__all__ = ["Pairs", "sparse_conv", "sparse_conv_weight_grad", "transposed_tiles"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A kernel map as the operators take it.

    Attributes:
        forward: in_index (P,) int32, out_index (P,) int32, tile_ptr (tiles + 1, K) int64; on a GPU
            then mask, ptr and rows of the neighbour table, and order (num_out,) int32 of its rows.
        backward: the same of the transposed map; empty if no gradient is wanted or if the map is
            symmetric.
        num_out: number of output rows.
        is_symmetric: the map is its own transpose with taps counted backwards.
        full_tap: a tap that feeds every output row (the centre of a submanifold kernel), or -1.
        taps: see :attr:`tap_ptr`; the tensor, or what returns it.
        is_identity: its only tap leads from every row to itself.
    """

    forward: tuple[Tensor, ...]
    backward: tuple[Tensor, ...]
    num_out: int
    is_symmetric: bool = False
    full_tap: int = -1
    taps: Tensor | Callable[[], Tensor] | None = None
    is_identity: bool = False

    @property
    def tap_ptr(self) -> Tensor | None:
        """(K + 1,) int64 on the CPU: where each tap begins in both lists, and the end.

        To read it, a GPU is waited for once per map. None: at each call that loops over the taps.
        """
        return self.taps() if callable(self.taps) else self.taps

    def host_taps(self, feats: Tensor, groups: int) -> Tensor | None:
        """``tap_ptr`` for a convolution of these features that loops over the taps, else None."""
        halves = (torch.bfloat16, torch.float16)
        if feats.is_cuda and groups == 1 and computed_dtype(feats) in halves:
            return None
        return self.tap_ptr


LISTS = 3
"""Arrays of a map that are pair lists; on a GPU more follow."""


def transposed_tiles(pairs: list[Tensor], num_in: int) -> list[Tensor]:
    """Forward arrays of the transposed map, made from those of the map itself."""
    in_index, out_index, tile_ptr = pairs[:LISTS]
    tap_ptr = tap_begins(tile_ptr)
    new_in, new_out = transpose_pairs(in_index, out_index, tap_ptr, num_in)
    return [new_in, new_out, tile_pairs(new_out, tap_ptr, num_in)]


def _is_channelwise(feats: Tensor, weight: Tensor, groups: int) -> bool:
    return groups == feats.shape[1] and weight.shape[1] == 1 and weight.shape[2] == groups


def _channelwise_taps(weight: Tensor, *, mirrored: bool) -> Tensor:
    return (weight.flip(0) if mirrored else weight).squeeze(1)


def _sparse_conv_cpu(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    pairs: list[Tensor],
    backward_pairs: list[Tensor],
    num_out: int,
    groups: int,
    is_symmetric: bool,
    full_tap: int,
    transposed: bool,
    mirrored: bool,
    relu: bool,
    tap_ptr: Tensor | None,
    packed: Tensor | None,
) -> Tensor:
    if _is_channelwise(feats, weight, groups):
        taps = _channelwise_taps(weight, mirrored=mirrored)
        return channelwise_conv(
            feats, taps, pairs[:LISTS], num_out, bias=bias, residual=residual, relu=relu
        )
    out = feats.new_empty((num_out, _out_channels(weight, groups, transposed=transposed)))
    in_index, out_index, tile_ptr = pairs[:LISTS]
    C.sparse_conv(
        feats.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if residual is None else residual.contiguous(),
        in_index,
        out_index,
        tile_ptr,
        tile_rows(num_out),
        groups,
        transposed,
        mirrored,
        full_tap,
        relu,
        out,
        torch.get_num_threads(),
    )
    return out


def _sparse_conv_cuda(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    pairs: list[Tensor],
    backward_pairs: list[Tensor],
    num_out: int,
    groups: int,
    is_symmetric: bool,
    full_tap: int,
    transposed: bool,
    mirrored: bool,
    relu: bool,
    tap_ptr: Tensor | None,
    packed: Tensor | None,
) -> Tensor:
    lists, view = pairs[:LISTS], pairs[LISTS:]
    is_channelwise = has_cuda() and _is_channelwise(feats, weight, groups)
    on_tensor_cores = bool(view) and gemm.fits(feats, groups)
    if is_channelwise or on_tensor_cores:  # the plain path looks for itself
        plain_conv.check_operands(
            feats, weight, bias, residual, lists, num_out, groups, transposed=transposed
        )
    if is_channelwise:
        taps = _channelwise_taps(weight, mirrored=mirrored)
        return channelwise_conv(
            feats, taps, lists, num_out, bias=bias, residual=residual, relu=relu
        )
    if on_tensor_cores:
        mask, ptr, rows, order = view
        if packed is None:
            packed = gemm.pack_weight(weight, transposed=transposed, mirrored=mirrored)
        return gemm.implicit_gemm(
            feats,
            packed,
            (mask, ptr, rows),
            order,
            out_channels=weight.shape[1 if transposed else 2],
            bias=bias,
            residual=residual,
            relu=relu,
        )
    return plain_conv.sparse_conv(
        feats,
        weight,
        bias,
        residual,
        lists,
        backward_pairs,
        num_out,
        groups,
        is_symmetric,
        full_tap,
        transposed,
        mirrored,
        relu,
        tap_ptr,
    )


def _out_channels(weight: Tensor, groups: int, *, transposed: bool) -> int:
    return weight.shape[1] * groups if transposed else weight.shape[2]


def _sparse_conv_fake(feats: Tensor, weight: Tensor, *others: Any) -> Tensor:
    _, _, _, _, num_out, groups, _, _, transposed, *_ = others
    return feats.new_empty((num_out, _out_channels(weight, groups, transposed=transposed)))


def _sparse_conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, _, _, pairs, backward_pairs, num_out, groups, *flags = inputs
    is_symmetric, full_tap, transposed, mirrored, relu, tap_ptr, _ = flags
    kept = output if relu else None
    ctx.save_for_backward(feats, weight, kept, tap_ptr, *pairs, *backward_pairs)
    ctx.num_out, ctx.groups, ctx.num_arrays = num_out, groups, len(pairs)
    ctx.is_symmetric, ctx.full_tap = is_symmetric, full_tap
    ctx.transposed, ctx.mirrored = transposed, mirrored


def _sparse_conv_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    feats, weight, output, tap_ptr, *arrays = ctx.saved_tensors
    pairs, backward_pairs = arrays[: ctx.num_arrays], arrays[ctx.num_arrays :]
    if output is not None:
        grad = torch.where(output > 0, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))
    wants_feats, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    grad_feats = grad_weight = None
    if wants_feats:
        if not ctx.is_symmetric and not backward_pairs:
            backward_pairs = transposed_tiles(pairs, feats.shape[0])
        grad_feats = _sparse_conv(
            grad,
            weight,
            None,
            None,
            pairs if ctx.is_symmetric else backward_pairs,
            [] if ctx.is_symmetric else pairs,
            feats.shape[0],
            ctx.groups,
            ctx.is_symmetric,
            ctx.full_tap,
            not ctx.transposed,
            ctx.mirrored != ctx.is_symmetric,
            False,
            tap_ptr,
            None,
        )
    if wants_weight:
        if ctx.transposed:
            # The stored weight belongs to the adjoint: exchange the two sides of every pair.
            swapped = [pairs[1], pairs[0], pairs[2]]
            grad_weight = _weight_grad(grad, feats, swapped, ctx.groups, tap_ptr)
        else:
            grad_weight = _weight_grad(feats, grad, pairs[:LISTS], ctx.groups, tap_ptr)
        grad_weight = (grad_weight.flip(0) if ctx.mirrored else grad_weight).to(weight.dtype)
    return (
        grad_feats,
        grad_weight,
        column_sums(grad)[0].to(grad.dtype) if wants_bias else None,
        grad if wants_residual else None,
        [None] * len(pairs),
        [None] * (len(arrays) - ctx.num_arrays),
        *(None,) * 9,
    )


_sparse_conv = define_op(
    "sparse_conv(Tensor feats, Tensor weight, Tensor? bias, Tensor? residual, Tensor[] pairs, "
    "Tensor[] backward_pairs, SymInt num_out, int groups, bool is_symmetric, int full_tap, "
    "bool transposed, bool mirrored, bool relu, Tensor? tap_ptr, Tensor? packed) -> Tensor",
    cpu=_sparse_conv_cpu,
    cuda=_sparse_conv_cuda,
    fake=_sparse_conv_fake,
    autograd=Autograd(_sparse_conv_setup, _sparse_conv_backward),
    autocast=True,
)


def sparse_conv(
    feats: Tensor,
    weight: Tensor,
    pairs: Pairs,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    groups: int = 1,
    transposed: bool = False,
    relu: bool = False,
    packed: PackedWeight | None = None,
) -> Tensor:
    """Convolve: ``out[o] = bias + sum over pairs (i, o) of tap t: feats[i] @ weight[t]``.

    Args:
        feats: (num_in, in_channels) float32, float64, bfloat16 or float16; halves are summed in
            float32.
        weight: (kernel_volume, in_channels / groups, out_channels), dtype of ``feats``.
        pairs: the kernel map.
        bias: (out_channels,) or None.
        residual: (num_out, out_channels), added before the activation, or None.
        groups: channel groups; equal to both channel counts it is a depthwise convolution.
        transposed: the weight is stored with input and output channels exchanged, (kernel_volume,
            out_channels / groups, in_channels), as ``torch.nn.Linear`` does.
        relu: apply max(0, .) at the end.
        packed: what the layer keeps of its weight for tensor cores, or None; not if transposed.

    Returns:
        (num_out, out_channels), dtype of ``feats``. Bitwise equal for any number of threads.

    Differentiable in feats, weight, bias and residual, twice.
    """
    kept = kept_weight(None if transposed else packed, weight, [feats], groups)
    result: Tensor = _sparse_conv(
        feats,
        weight,
        bias,
        residual,
        list(pairs.forward),
        list(pairs.backward),
        pairs.num_out,
        groups,
        pairs.is_symmetric,
        pairs.full_tap,
        transposed,
        False,
        relu,
        pairs.host_taps(feats, groups),
        kept[0] if kept else None,
    )
    return result


def _weight_grad_cpu(
    feats: Tensor, grad_out: Tensor, pairs: list[Tensor], groups: int, tap_ptr: Tensor | None
) -> Tensor:
    in_channels, out_channels = feats.shape[1], grad_out.shape[1]
    in_index, out_index, tile_ptr = pairs
    rows = tile_rows_of(tile_ptr, grad_out.shape[0], feats.shape[0])
    if groups == in_channels == out_channels:
        return channelwise_weight_grad(feats, grad_out, pairs, rows).unsqueeze(1)
    shape = (tile_ptr.shape[1], in_channels // groups, out_channels)
    grad_weight = feats.new_empty(shape, dtype=sum_dtype(feats.dtype))
    C.sparse_conv_weight_grad(
        feats.contiguous(),
        grad_out.contiguous(),
        in_index,
        out_index,
        tile_ptr,
        rows,
        groups,
        grad_weight,
        torch.get_num_threads(),
    )
    return grad_weight


def _weight_grad_cuda(
    feats: Tensor, grad_out: Tensor, pairs: list[Tensor], groups: int, tap_ptr: Tensor | None
) -> Tensor:
    in_index, out_index, tile_ptr = pairs
    if has_cuda() and groups == feats.shape[1] == grad_out.shape[1]:
        rows = tile_rows_of(tile_ptr, grad_out.shape[0], feats.shape[0])
        return channelwise_weight_grad(feats, grad_out, pairs, rows).unsqueeze(1)
    if gemm.fits(feats, groups) and feats.element_size() == 2:  # columns of halves alone
        return gemm.pair_gemm(feats, grad_out, in_index, out_index, tap_begins(tile_ptr))
    return plain_conv.sparse_conv_weight_grad(feats, grad_out, pairs, groups, tap_ptr)


def tile_rows_of(tile_ptr: Tensor, *row_counts: int) -> int:
    """Tile height behind ``tile_ptr``: that of the side whose number of rows fits."""
    tiles = tile_ptr.shape[0] - 1
    for count in row_counts:
        rows = tile_rows(count)
        if -(-count // rows) == tiles:
            return rows
    message = (
        f"sparse_conv_weight_grad: tile_ptr must have one row per tile and one more, got "
        f"{tile_ptr.shape[0]} rows. Make it with tile_pairs."
    )
    raise ValueError(message)


def _weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, grad_out, pairs, groups, tap_ptr = inputs
    ctx.save_for_backward(feats, grad_out, tap_ptr, *pairs)
    ctx.groups = groups


def _weight_grad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    feats, grad_out, tap_ptr, *pairs = ctx.saved_tensors
    weight = grad.to(feats.dtype)
    wants_feats, wants_grad_out = ctx.needs_input_grad[:2]
    grad_feats = grad_grad_out = None
    if wants_feats:
        backward_pairs = transposed_tiles(pairs, feats.shape[0])
        grad_feats = _sparse_conv(
            grad_out, weight, None, None, backward_pairs, pairs, feats.shape[0], ctx.groups,
            False, -1, True, False, False, tap_ptr, None,
        )  # fmt: skip
    if wants_grad_out:
        grad_grad_out = _sparse_conv(
            feats, weight, None, None, pairs, [], grad_out.shape[0], ctx.groups,
            False, -1, False, False, False, tap_ptr, None,
        )  # fmt: skip
    return grad_feats, grad_grad_out, [None] * len(pairs), None, None


_weight_grad = define_op(
    "sparse_conv_weight_grad(Tensor feats, Tensor grad_out, Tensor[] pairs, int groups, "
    "Tensor? tap_ptr) -> Tensor",
    cpu=_weight_grad_cpu,
    cuda=_weight_grad_cuda,
    fake=lambda feats, grad_out, pairs, groups, tap_ptr: feats.new_empty(
        (pairs[2].shape[1], feats.shape[1] // groups, grad_out.shape[1]),
        dtype=sum_dtype(feats.dtype),
    ),
    autograd=Autograd(_weight_grad_setup, _weight_grad_backward),
)


def sparse_conv_weight_grad(
    feats: Tensor, grad_out: Tensor, pairs: Pairs, *, groups: int = 1
) -> Tensor:
    """Gradient of :func:`sparse_conv` by its weight.

    Args:
        feats: (num_in, in_channels).
        grad_out: (num_out, out_channels), same dtype.
        pairs: the kernel map of the convolution.
        groups: as in the convolution.

    Returns:
        (kernel_volume, in_channels / groups, out_channels), float64 for float64 and else float32.
    """
    lists = list(pairs.forward[:LISTS])
    taps = pairs.host_taps(feats, groups)
    result: Tensor = _weight_grad(feats, grad_out, lists, groups, taps)
    return result
