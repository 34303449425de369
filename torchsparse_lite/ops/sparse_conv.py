# SPDX-License-Identifier: MIT
"""Sparse convolution over a kernel map, and its gradients.

The adjoint of a convolution is a convolution too: over the transposed map, with the weight
transposed. One operator therefore serves the forward pass, the input gradient and the second
derivative; flags say how the stored weight is to be read. Who computes it,
:mod:`torchsparse_lite.ops.dataflow` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchsparse_lite._native import C
from torchsparse_lite.ops import dataflow, gemm, plain_conv
from torchsparse_lite.ops.channelwise_conv import channelwise_conv, channelwise_weight_grad
from torchsparse_lite.ops.columns import column_sums
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.dataflow import Dataflow, is_channelwise
from torchsparse_lite.ops.map_arrays import GemmView, PairLists, Pairs
from torchsparse_lite.ops.packed_weight import PackedWeight, kept_weight
from torchsparse_lite.ops.pairs import tap_begins, tile_rows
from torchsparse_lite.ops.registry import Autograd, define_op, gradients
from torchsparse_lite.ops.widen import sum_dtype

__all__ = ["sparse_conv", "sparse_conv_weight_grad"]


def _on_cpu(call: ConvCall) -> Tensor:
    feats, weight, bias, residual = call.feats, call.weight, call.bias, call.residual
    if is_channelwise(feats, weight, call.groups):
        return _by_channel(call)
    in_index, out_index, tile_ptr, *_ = call.pairs
    out = feats.new_empty((call.num_out, call.out_channels))
    C.sparse_conv(
        feats.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if residual is None else residual.contiguous(),
        in_index,
        out_index,
        tile_ptr,
        tile_rows(call.num_out),
        call.groups,
        call.transposed,
        call.mirrored,
        call.full_tap,
        call.relu,
        out,
        torch.get_num_threads(),
    )
    return out


def _on_gpu(call: ConvCall) -> Tensor:
    view = call.view
    flow = dataflow.conv_dataflow(call.feats, call.weight, call.groups, has_view=view is not None)
    if flow is Dataflow.PLAIN:  # looks at the operands itself
        return plain_conv.sparse_conv(call)
    plain_conv.check_operands(call)
    if flow is Dataflow.TENSOR_CORES and view is not None:
        return _on_tensor_cores(call, view)
    return _by_channel(call)


def _by_channel(call: ConvCall) -> Tensor:
    return channelwise_conv(
        call.feats,
        (call.weight.flip(0) if call.mirrored else call.weight).squeeze(1),
        call.lists,
        call.num_out,
        bias=call.bias,
        residual=call.residual,
        relu=call.relu,
    )


def _on_tensor_cores(call: ConvCall, view: GemmView) -> Tensor:
    packed = call.packed
    if packed is None:
        packed = gemm.pack_weight(call.weight, transposed=call.transposed, mirrored=call.mirrored)
    return gemm.implicit_gemm(
        call.feats,
        packed,
        view.table,
        view.order,
        out_channels=call.out_channels,
        bias=call.bias,
        residual=call.residual,
        relu=call.relu,
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = ConvCall(*inputs)
    kept = output if call.relu else None
    tensors = call.feats, call.weight, kept, call.tap_ptr
    ctx.save_for_backward(*tensors, *call.pairs, *call.backward_pairs)
    ctx.call, ctx.num_arrays = call.without_tensors(), len(call.pairs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    feats, weight, output, tap_ptr, *arrays = ctx.saved_tensors
    pairs, backward_pairs = arrays[: ctx.num_arrays], arrays[ctx.num_arrays :]
    call: ConvCall = ctx.call._replace(
        feats=feats, weight=weight, pairs=pairs, backward_pairs=backward_pairs, tap_ptr=tap_ptr
    )
    if output is not None:
        grad = torch.where(output > 0, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))
    wants_feats, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    return gradients(
        ConvCall._fields,
        feats=_sparse_conv(*call.adjoint(grad)) if wants_feats else None,
        weight=_grad_of_weight(call, grad) if wants_weight else None,
        bias=column_sums(grad)[0].to(grad.dtype) if wants_bias else None,
        residual=grad if wants_residual else None,
        pairs=[None] * len(pairs),
        backward_pairs=[None] * len(backward_pairs),
    )


def _grad_of_weight(call: ConvCall, grad: Tensor) -> Tensor:
    inputs, outputs, lists = call.feats, grad, call.lists
    if call.transposed:
        # The stored weight belongs to the adjoint: exchange the two sides of every pair.
        inputs, outputs = outputs, inputs
        lists = PairLists(lists.out_index, lists.in_index, lists.tile_ptr)
    result: Tensor = _weight_grad(inputs, outputs, list(lists), call.groups, call.tap_ptr)
    return (result.flip(0) if call.mirrored else result).to(call.weight.dtype)


_sparse_conv = define_op(
    "sparse_conv(Tensor feats, Tensor weight, Tensor? bias, Tensor? residual, Tensor[] pairs, "
    "Tensor[] backward_pairs, SymInt num_out, int groups, bool is_symmetric, int full_tap, "
    "bool transposed, bool mirrored, bool relu, Tensor? tap_ptr, Tensor? packed) -> Tensor",
    cpu=_on_cpu,
    cuda=_on_gpu,
    fake=lambda call: call.feats.new_empty((call.num_out, call.out_channels)),
    autograd=Autograd(_setup, _backward),
    autocast=True,
    record=ConvCall._make,
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
    call = ConvCall(
        feats,
        weight,
        bias,
        residual,
        pairs.forward.flat(),
        pairs.backward.flat() if pairs.backward else [],
        pairs.num_out,
        groups,
        pairs.is_symmetric,
        pairs.full_tap,
        transposed,
        relu=relu,
        tap_ptr=dataflow.host_taps(pairs, feats, weight, groups),
        packed=kept[0] if kept else None,
    )
    result: Tensor = _sparse_conv(*call)
    return result


def _weight_grad_on_cpu(
    feats: Tensor, grad_out: Tensor, pairs: list[Tensor], groups: int, tap_ptr: Tensor | None
) -> Tensor:
    in_channels, out_channels = feats.shape[1], grad_out.shape[1]
    if groups == in_channels == out_channels:
        return _weight_grad_by_channel(feats, grad_out, pairs)
    lists = PairLists(*pairs)
    shape = (lists.tile_ptr.shape[1], in_channels // groups, out_channels)
    grad_weight = feats.new_empty(shape, dtype=sum_dtype(feats.dtype))
    C.sparse_conv_weight_grad(
        feats.contiguous(),
        grad_out.contiguous(),
        *lists,
        tile_rows_of(lists.tile_ptr, grad_out.shape[0], feats.shape[0]),
        groups,
        grad_weight,
        torch.get_num_threads(),
    )
    return grad_weight


def _weight_grad_on_gpu(
    feats: Tensor, grad_out: Tensor, pairs: list[Tensor], groups: int, tap_ptr: Tensor | None
) -> Tensor:
    flow = dataflow.weight_grad_dataflow(feats, grad_out, groups)
    if flow is Dataflow.CHANNELWISE:
        return _weight_grad_by_channel(feats, grad_out, pairs)
    if flow is Dataflow.TENSOR_CORES:
        in_index, out_index, tile_ptr = pairs
        return gemm.pair_gemm(feats, grad_out, in_index, out_index, tap_begins(tile_ptr))
    return plain_conv.sparse_conv_weight_grad(feats, grad_out, pairs, groups, tap_ptr)


def _weight_grad_by_channel(feats: Tensor, grad_out: Tensor, pairs: list[Tensor]) -> Tensor:
    lists = PairLists(*pairs)
    rows = tile_rows_of(lists.tile_ptr, grad_out.shape[0], feats.shape[0])
    return channelwise_weight_grad(feats, grad_out, lists, rows).unsqueeze(1)


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
    call = ConvCall(
        feats, weight, None, None, pairs, [], grad_out.shape[0], groups=ctx.groups, tap_ptr=tap_ptr
    )
    if wants_feats:
        grad_feats = _sparse_conv(*call.adjoint(grad_out))
    if wants_grad_out:
        grad_grad_out = _sparse_conv(*call)
    return grad_feats, grad_grad_out, [None] * len(pairs), None, None


_weight_grad = define_op(
    "sparse_conv_weight_grad(Tensor feats, Tensor grad_out, Tensor[] pairs, int groups, "
    "Tensor? tap_ptr) -> Tensor",
    cpu=_weight_grad_on_cpu,
    cuda=_weight_grad_on_gpu,
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
    flow = dataflow.weight_grad_dataflow(feats, grad_out, groups)
    taps = pairs.tap_ptr if flow in (Dataflow.PLAIN, Dataflow.ON_CPU) else None
    result: Tensor = _weight_grad(feats, grad_out, list(pairs.forward.lists), groups, taps)
    return result
