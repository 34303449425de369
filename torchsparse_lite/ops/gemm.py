# SPDX-License-Identifier: MIT
"""Sparse convolution on the tensor cores of a GPU: halves or TF32, summed in float32.

The functions compute; what is differentiable is :mod:`torchsparse_lite.ops.sparse_conv`, which
calls them where :mod:`torchsparse_lite.ops.dataflow` says so. Channels are filled up with zeros to
whole words of 16 bytes, in which rows are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchsparse_lite._native import C
from torchsparse_lite.ops.gemm_tiles import tile_for
from torchsparse_lite.ops.scratch import scratch_on

__all__ = [
    "MAX_PARTS",
    "Part",
    "Table",
    "implicit_gemm",
    "implicit_gemm_sum",
    "order_rows",
    "pack_parts",
    "pack_weight",
    "pair_gemm",
]

_WORD_BYTES, _BLOCK_BYTES = 16, 64  # of the input channels of a row
_OUT_BLOCK = 32
_FRAGMENTS = 2  # in a block
_BLOCK_ROWS = 2048  # few enough that the features behind them stay in the cache of a Jetson

MAX_PARTS = 4
"""Of one sum, ``kMaxParts`` of ``csrc/kernels/gemm_tile.h``."""


Table = tuple[Tensor, Tensor, Tensor]
"""Mask, ptr and rows of a neighbour table."""


class Part(NamedTuple):
    """A part of a sum of convolutions.

    Attributes:
        feats: (num_in, in_channels) on CUDA.
        packed: its weight, from :func:`pack_weight`.
        table: the neighbours; None if row o reads row o, through the weight's only tap.
    """

    feats: Tensor
    packed: Tensor
    table: Table | None


def pack_weight(weight: Tensor, *, transposed: bool = False, mirrored: bool = False) -> Tensor:
    """A weight in the order in which tensor cores read it.

    Args:
        weight: (kernel_volume, in_channels, out_channels) bfloat16, float16 or float32 on CUDA;
            channels exchanged if ``transposed``.
        transposed: the weight of the adjoint convolution is wanted.
        mirrored: tap t uses the weight of tap K - 1 - t.

    Returns:
        (kernel_volume, in, out, 32, 4) int32: fragments of input and output channels, and what
        each of 32 lanes holds of them; channels are filled up with zeros to whole blocks.
    """
    stored = weight.contiguous()
    volume, in_channels, out_channels = stored.shape
    if transposed:
        in_channels, out_channels = out_channels, in_channels
    inputs = -(-in_channels * stored.element_size() // _BLOCK_BYTES) * _FRAGMENTS
    outputs = -(-out_channels // _OUT_BLOCK) * _FRAGMENTS
    packed = stored.new_empty((volume, inputs, outputs, 32, 4), dtype=torch.int32)
    C.pack_weight(stored, transposed, mirrored, packed, scratch_on(stored))
    return packed


def pack_parts(weight: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """:func:`pack_weight` of a weight that is cut along its input channels.

    Args:
        weight: (kernel_volume, in_channels, out_channels).
        widths: input channels of each part.
    """
    return [pack_weight(part) for part in weight.detach().split(list(widths), dim=1)]


def order_rows(mask: Tensor, tap_ptr: Tensor) -> Tensor:
    """Output rows of a map, those with the same taps together.

    Args:
        mask: (num_out, ceil(K / 32)) int32 of the neighbour table, on CUDA.
        tap_ptr: (K + 1,) int64 of the pair lists.

    Returns:
        (num_out,) int32. Rows move inside blocks of 2048. Of more than 32 taps they do not move.
    """
    order = mask.new_empty(mask.shape[0])
    C.order_rows(mask, tap_ptr, _BLOCK_ROWS, order, scratch_on(mask))
    return order


def implicit_gemm(
    feats: Tensor,
    packed: Tensor,
    table: Table,
    order: Tensor,
    *,
    out_channels: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    tile: int | None = None,
) -> Tensor:
    """Convolve: ``out[o] = bias + sum over taps of feats[input of o] @ weight[tap]``.

    Args:
        feats: (num_in, in_channels) on CUDA, dtype of the weight.
        packed: from :func:`pack_weight`.
        table: mask, ptr and rows of the neighbour table.
        order: (num_out,) int32, from :func:`order_rows`.
        out_channels: of the weight.
        bias: (out_channels,) or None.
        residual: (num_out, out_channels), added before the activation, or None.
        relu: apply max(0, .) at the end.
        tile: number of one in ``C.gemm_tiles()``; None for the one that the table says.

    Returns:
        (num_out, out_channels), dtype of ``feats``; the same bits in every run.
    """
    return implicit_gemm_sum(
        [Part(feats, packed, table)],
        order,
        out_channels=out_channels,
        biases=() if bias is None else (bias,),
        residual=residual,
        relu=relu,
        tile=tile,
    )


def implicit_gemm_sum(
    parts: Sequence[Part],
    order: Tensor,
    *,
    out_channels: int,
    biases: Sequence[Tensor] = (),
    residual: Tensor | None = None,
    relu: bool = False,
    tile: int | None = None,
) -> Tensor:
    """Sum convolutions onto the same rows, in one pass.

    Args:
        parts: 1 to 4; of one dtype.
        order: (num_out,) int32, from :func:`order_rows`, best for the largest table.
        out_channels: of the weights.
        biases: (out_channels,) each, as many as there are parts or fewer.
        residual: (num_out, out_channels), added before the activation, or None.
        relu: apply max(0, .) at the end.
        tile: as for :func:`implicit_gemm`; None looks the first part up.

    Returns:
        (num_out, out_channels), dtype of the features; the same bits in every run.
    """
    feats = parts[0].feats
    tables = {id(part.table[0]): part.table for part in parts if part.table is not None}
    numbers = {mask: number for number, mask in enumerate(tables)}
    rows = order.shape[0]
    if tile is None:
        tile = tile_for(feats, parts[0].packed.shape[0], out_channels, rows)
    out = feats.new_empty((rows, out_channels))
    C.implicit_gemm(
        [_whole_words(part.feats) for part in parts],
        [part.packed for part in parts],
        [-1 if part.table is None else numbers[id(part.table[0])] for part in parts],
        list(tables.values()),
        [bias.contiguous() for bias in biases],
        None if residual is None else _aligned(residual),
        order,
        relu,
        tile,
        out,
        scratch_on(feats),
    )
    return out


def pair_gemm(
    feats: Tensor, grad_out: Tensor, in_index: Tensor, out_index: Tensor, tap_ptr: Tensor
) -> Tensor:
    """Gradient of the convolution by its weight: ``sum over pairs (i, o): feats[i]^T grad_out[o]``.

    Args:
        feats: (num_in, in_channels) bfloat16 or float16 on CUDA.
        grad_out: (num_out, out_channels), same dtype.
        in_index: (P,) int32, tap after tap.
        out_index: (P,) int32.
        tap_ptr: (K + 1,) int64 on CUDA.

    Returns:
        (K, in_channels, out_channels) float32; the same bits in every run.
    """
    shape = (tap_ptr.shape[0] - 1, feats.shape[1], grad_out.shape[1])
    grad_weight = feats.new_empty(shape, dtype=torch.float32)
    C.pair_gemm(
        _whole_words(feats),
        _whole_words(grad_out),
        in_index,
        out_index,
        tap_ptr,
        grad_weight,
        scratch_on(feats),
    )
    return grad_weight


def _whole_words(feats: Tensor) -> Tensor:
    missing = -feats.shape[1] % (_WORD_BYTES // feats.element_size())
    return pad(feats, (0, missing)) if missing else _aligned(feats)


def _aligned(rows: Tensor) -> Tensor:
    """Contiguous, and from a whole word on; a tensor cut out of another may begin anywhere."""
    kept = rows.contiguous()
    return kept.clone() if kept.data_ptr() % _WORD_BYTES else kept
