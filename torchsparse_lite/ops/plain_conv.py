# SPDX-License-Identifier: MIT
"""Sparse convolution and its weight gradient by torch alone, on any device.

It is the specification of what runs on a GPU, and its fallback where no kernel of ours fits. Tap
after tap, the input rows of a tap's pairs are gathered, multiplied by the tap's weight and added to
the output rows, ``out[o] += feats[i] @ weight[tap]``. A group of channels is one matrix of a
batch; channelwise kernels multiply element by element.

- Order: taps ascend. Inside a tap every output row occurs at most once, so the sums are read,
  increased and put back with ``index_copy_``: no two products meet, and nothing is added
  atomically. A run repeats bit by bit as far as torch's matrix product does, which on a GPU means
  one stream, or ``CUBLAS_WORKSPACE_CONFIG=:4096:8``.
- Batch mates: a matrix product may choose its kernel, and so the last bits, by the number of rows.
  So each has the same number, the last of a tap filled up with zeros.
- Numbers: sums of halves are kept in float32 over all taps and rounded once. Halves are widened
  before the product: that is exact, so an output is off by its own rounding and, per product, by
  2^-24 of the sum of magnitudes. (``torch.mm(out_dtype=)`` would be faster. It is there from torch
  2.8 on, for CUDA alone.) float32 is IEEE float32 unless torch's switch for TF32 says otherwise.
- Waiting: the host needs to know where each tap begins. Those K + 1 numbers travel with the map as
  ``tap_ptr``, a tensor on the CPU, so the device is waited for once per map and never in a call.
  They are a tensor and no list of integers, because torch.compile would make a new graph for every
  other list.
- Memory: the sums, and of one tap at a time its input rows twice and its output rows three times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor

from torchsparse_lite.errors import check_dtype, check_same_device, check_shape, refuse
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.map_arrays import PairLists
from torchsparse_lite.ops.pairs import tap_begins
from torchsparse_lite.ops.widen import sum_dtype

__all__ = ["check_operands", "sparse_conv", "sparse_conv_weight_grad"]

_ROWS = 4096  # of one product


def sparse_conv(call: ConvCall) -> Tensor:
    """The operator of this name, see :mod:`torchsparse_lite.ops.sparse_conv`; packs nothing."""
    check_operands(call)
    feats, lists, num_out = call.feats, call.lists, call.num_out
    ptr = _taps_on_host("sparse_conv", lists, call.tap_ptr)
    _check_full_tap(ptr, call.full_tap, num_out)
    dtype = sum_dtype(feats.dtype)
    with _as_written(feats):
        blocks = _blocks(call, dtype)
        sums = feats.new_zeros((num_out, call.out_channels), dtype=dtype)
        if call.bias is not None:
            sums += call.bias
        for tap, in_index, out_index in _taps(lists, ptr):
            x = feats.index_select(0, in_index).to(dtype)
            product = _product(x, blocks[tap])
            if tap == call.full_tap:
                sums += product  # its output rows are all, in order
            else:
                at = out_index.long()
                sums.index_copy_(0, at, sums.index_select(0, at) + product)
        if call.residual is not None:
            sums += call.residual
        return (sums.relu_() if call.relu else sums).to(feats.dtype)


def sparse_conv_weight_grad(
    feats: Tensor, grad_out: Tensor, pairs: list[Tensor], groups: int, tap_ptr: Tensor | None
) -> Tensor:
    """The operator of this name: the sum over the pairs of a tap is one matrix product."""
    in_channels, out_channels = feats.shape[1], grad_out.shape[1]
    _check_groups("sparse_conv_weight_grad", groups, in_channels, out_channels)
    _check_like("sparse_conv_weight_grad: grad_out", grad_out, feats, (None, out_channels))
    lists = PairLists(*pairs)
    ptr = _taps_on_host("sparse_conv_weight_grad", lists, tap_ptr)
    dtype = sum_dtype(feats.dtype)
    cin, cout = in_channels // groups, out_channels // groups
    blocks = feats.new_zeros((len(ptr) - 1, groups, cin, cout), dtype=dtype)
    with _as_written(feats):
        for tap, in_index, out_index in _taps(lists, ptr):
            x = feats.index_select(0, in_index).to(dtype)
            grad = grad_out.index_select(0, out_index).to(dtype)
            if cin == cout == 1:
                blocks[tap] = (x * grad).sum(0).view(groups, 1, 1)
            else:
                blocks[tap] = _by_group(x, groups).transpose(1, 2) @ _by_group(grad, groups)
    return blocks.transpose(1, 2).flatten(2)


def check_operands(call: ConvCall) -> None:
    """Raise unless the operands of a convolution fit the features and the kernel map."""
    feats, groups, out_channels = call.feats, call.groups, call.out_channels
    in_channels, volume = feats.shape[1], call.lists.tile_ptr.shape[1]
    _check_groups("sparse_conv", groups, in_channels, out_channels)
    rows, columns = in_channels, out_channels
    if call.transposed:
        rows, columns = columns, rows
    _check_like("sparse_conv: weight", call.weight, feats, (volume, rows // groups, columns))
    _check_like("sparse_conv: bias", call.bias, feats, (out_channels,))
    _check_like("sparse_conv: residual", call.residual, feats, (call.num_out, out_channels))


def _as_written(feats: Tensor) -> AbstractContextManager[object]:
    """Autocast would take the wide operands of a product for ones to be narrowed."""
    return torch.autocast(feats.device.type, enabled=False)


def _taps_on_host(function: str, lists: PairLists, tap_ptr: Tensor | None) -> list[int]:
    """Where each tap begins, and the end. Without ``tap_ptr`` it waits for the device."""
    if tap_ptr is None:
        tap_ptr = tap_begins(lists.tile_ptr)
    taps = lists.tile_ptr.shape[1]
    check_shape(f"{function}: tap_ptr", tap_ptr, (taps + 1,), "Pass the map's own.")
    ptr: list[int] = tap_ptr.tolist()
    count = lists.in_index.shape[0]
    if ptr != sorted(ptr) or ptr[0] < 0 or ptr[-1] > count or lists.out_index.shape[0] != count:
        refuse(
            f"{function}: tap_ptr",
            f"ascending inside 0..{count}, the number of pairs",
            ptr,
            "Pass arrays of one kernel map.",
        )
    return ptr


def _taps(lists: PairLists, ptr: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number, input rows and output rows of each tap that has pairs."""
    for tap, (begin, end) in enumerate(pairwise(ptr)):
        if begin < end:
            yield tap, lists.in_index[begin:end], lists.out_index[begin:end]


def _blocks(call: ConvCall, dtype: torch.dtype) -> Tensor:
    """The stored weight as (taps, groups, in_channels / groups, out_channels / groups)."""
    volume, rows, columns = call.weight.shape
    by_group = call.weight.to(dtype).reshape(volume, rows, call.groups, columns // call.groups)
    blocks = by_group.permute(0, 2, 3, 1) if call.transposed else by_group.transpose(1, 2)
    return blocks.flip(0) if call.mirrored else blocks


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """(n, channels) as (groups, n, channels / groups)."""
    count, channels = rows.shape
    return rows.reshape(count, groups, channels // groups).transpose(0, 1)


def _product(x: Tensor, blocks: Tensor) -> Tensor:
    """(n, out_channels) ``x @ weight`` for the blocks of one tap."""
    groups, cin, cout = blocks.shape
    if cin == cout == 1:
        return x * blocks.flatten()
    count = x.shape[0]
    x = torch.nn.functional.pad(x, (0, 0, 0, -count % _ROWS))
    out = x.new_empty((x.shape[0], groups * cout))
    for rows, result in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
        if groups == 1:
            torch.mm(rows, blocks[0], out=result)
        else:
            result.copy_((_by_group(rows, groups) @ blocks).transpose(0, 1).flatten(1))
    return out[:count]


def _check_groups(function: str, groups: int, *channels: int) -> None:
    if groups < 1 or any(count % groups for count in channels):
        numbers = " and ".join(str(count) for count in channels)
        refuse(
            f"{function}: groups",
            f"a divisor of the channels ({numbers})",
            groups,
            "Pick a common divisor.",
        )


def _check_like(
    where: str, operand: Tensor | None, feats: Tensor, shape: tuple[int | None, ...]
) -> None:
    if operand is not None:
        check_shape(where, operand, shape, "Match it to the kernel map and to the features.")
        check_dtype(where, operand, (feats.dtype,), "Convert it with .to().")
        check_same_device(where, operand, feats, "feats")


def _check_full_tap(ptr: list[int], full_tap: int, num_out: int) -> None:
    """A full tap pairs every output row, so that its products need no index."""
    if full_tap == -1:
        return
    is_tap = 0 <= full_tap < len(ptr) - 1
    found = ptr[full_tap + 1] - ptr[full_tap] if is_tap else 0
    if not is_tap or found != num_out:
        refuse(
            "sparse_conv: full_tap",
            f"a tap with a pair for each of the {num_out} output rows",
            f"tap {full_tap} with {found}",
            "Leave it out: -1.",
        )
