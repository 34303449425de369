# SPDX-License-Identifier: MIT
"""Convolution of each channel by itself: what depthwise layers and sums over windows are made of.

Not differentiable; the operators that call it are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchsparse_lite._native import C
from torchsparse_lite.ops.map_arrays import PairLists
from torchsparse_lite.ops.pairs import tile_rows
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.widen import sum_dtype, widened

__all__ = ["channelwise_conv", "channelwise_weight_grad"]


def channelwise_conv(
    feats: Tensor,
    weight: Tensor | None,
    lists: PairLists,
    num_out: int,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Multiply and add row by row.

    Args:
        feats: (num_in, C) floating; halves are summed in float32.
        weight: (K, C), or None for plain sums.
        lists: the pairs.
        num_out: number of output rows.
        bias: (C,) or None.
        residual: (num_out, C), added before the activation, or None.
        relu: apply max(0, .) at the end.

    Returns:
        (num_out, C), dtype of ``feats``, rounded once.
    """
    x = widened(feats)
    out = x.new_empty((num_out, x.shape[1]))
    C.channelwise_conv(
        x,
        None if weight is None else widened(weight),
        None if bias is None else widened(bias),
        None if residual is None else widened(residual),
        *lists,
        tile_rows(num_out),
        relu,
        out,
        scratch_on(x),
        torch.get_num_threads(),
    )
    return out.to(feats.dtype)


def channelwise_weight_grad(feats: Tensor, grad_out: Tensor, lists: PairLists, rows: int) -> Tensor:
    """Gradient by the weight.

    Args:
        feats: (num_in, C) floating.
        grad_out: (num_out, C), same dtype.
        lists: the pairs.
        rows: height of the tiles.

    Returns:
        (K, C), float64 for float64 and else float32.
    """
    x = widened(feats)
    grad_weight = x.new_empty((lists.tile_ptr.shape[1], x.shape[1]), dtype=sum_dtype(x.dtype))
    C.channelwise_weight_grad(
        x,
        widened(grad_out),
        *lists,
        rows,
        grad_weight,
        scratch_on(x),
        torch.get_num_threads(),
    )
    return grad_weight
