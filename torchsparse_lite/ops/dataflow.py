# SPDX-License-Identifier: MIT
"""Which kernels compute a convolution. Whoever needs to know, asks here."""

from __future__ import annotations

from enum import Enum, auto

import torch
from torch import Tensor

from torchsparse_lite._native import has_cuda
from torchsparse_lite.ops.map_arrays import Pairs
from torchsparse_lite.ops.registry import computed_dtype

__all__ = [
    "Dataflow",
    "allows_tf32",
    "choose",
    "conv_dataflow",
    "host_taps",
    "is_channelwise",
    "weight_grad_dataflow",
]

_HALVES = (torch.bfloat16, torch.float16)


class Dataflow(Enum):
    """How a convolution is computed, or its gradient by the weight.

    Attributes:
        ON_CPU: by the kernels of the CPU.
        CHANNELWISE: by :mod:`torchsparse_lite.ops.channelwise_conv`.
        TENSOR_CORES: by :mod:`torchsparse_lite.ops.gemm`.
        PLAIN: by :mod:`torchsparse_lite.ops.plain_conv`, the only one in which the host loops over
            the taps.
    """

    ON_CPU = auto()
    CHANNELWISE = auto()
    TENSOR_CORES = auto()
    PLAIN = auto()


def choose(
    dtype: torch.dtype,
    *,
    groups: int = 1,
    is_channelwise: bool = False,
    has_view: bool = True,
    of_weight: bool = False,
) -> Dataflow:
    """The table of all choices on a GPU.

    Args:
        dtype: that is computed in.
        groups: channel groups.
        is_channelwise: each channel is a group.
        has_view: the map comes with its :class:`~torchsparse_lite.ops.map_arrays.GemmView`.
        of_weight: of the gradient by the weight, which needs no view.
    """
    if not has_cuda():
        return Dataflow.PLAIN
    if is_channelwise:
        return Dataflow.CHANNELWISE
    if of_weight:  # reads columns, which tensor cores do of halves alone
        is_theirs = dtype in _HALVES
    else:
        is_theirs = has_view and (dtype in _HALVES or (dtype == torch.float32 and allows_tf32()))
    return Dataflow.TENSOR_CORES if groups == 1 and is_theirs else Dataflow.PLAIN


def is_channelwise(feats: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether a convolution of these operands takes each channel by itself."""
    return weight.shape[1] == 1 and groups == feats.shape[1] == weight.shape[2]


def conv_dataflow(
    feats: Tensor,
    weight: Tensor | None = None,
    groups: int = 1,
    *,
    has_view: bool = True,
    of_weight: bool = False,
) -> Dataflow:
    """Of a convolution, or of its gradient by the weight if there will be one.

    Args:
        feats: (num_in, in_channels); of features side by side, the first.
        weight: as it is stored; None for any that is not channelwise.
        groups: channel groups.
        has_view: see :func:`choose`.
        of_weight: see :func:`choose`.
    """
    if not feats.is_cuda:
        return Dataflow.ON_CPU
    return choose(
        computed_dtype(feats),
        groups=groups,
        is_channelwise=weight is not None and is_channelwise(feats, weight, groups),
        has_view=has_view,
        of_weight=of_weight,
    )


def weight_grad_dataflow(feats: Tensor, grad_out: Tensor, groups: int) -> Dataflow:
    """Of a gradient by the weight, an operator that autocast leaves alone.

    Args:
        feats: (num_in, in_channels).
        grad_out: (num_out, out_channels).
        groups: channel groups.
    """
    if not feats.is_cuda:
        return Dataflow.ON_CPU
    by_channel = groups == feats.shape[1] == grad_out.shape[1]
    return choose(feats.dtype, groups=groups, is_channelwise=by_channel, of_weight=True)


def host_taps(pairs: Pairs, feats: Tensor, weight: Tensor, groups: int = 1) -> Tensor | None:
    """The ``tap_ptr`` of a map, if it is to travel with a convolution; else None.

    A GPU is waited for only if the convolution loops over the taps, or its gradient by the weight
    will. On the CPU it is at hand.

    Args:
        pairs: the map.
        feats: see :func:`conv_dataflow`.
        weight: as it is stored.
        groups: channel groups.
    """
    if not feats.is_cuda:
        return pairs.tap_ptr
    flows = [conv_dataflow(feats, weight, groups, has_view=pairs.forward.view is not None)]
    if torch.is_grad_enabled() and weight.requires_grad:
        flows.append(conv_dataflow(feats, weight, groups, of_weight=True))
    return pairs.tap_ptr if Dataflow.PLAIN in flows else None


def allows_tf32() -> bool:
    """Whether torch's switch lets products of float32 be computed in TF32.

    From torch 2.9 on it has another name; where it was set by that one, the old one raises. While
    torch.compile traces it counts as off, because Dynamo cannot read it; kernels, which run later,
    ask anew.
    """
    if torch.compiler.is_compiling():
        return False
    switch = torch.backends.cuda.matmul
    precision = getattr(switch, "fp32_precision", None)
    return bool(switch.allow_tf32 if precision is None else precision == "tf32")
