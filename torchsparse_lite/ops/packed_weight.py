# SPDX-License-Identifier: MIT
"""The weight of a layer in the order of the tensor cores, kept between calls of inference."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite.ops import dataflow, gemm
from torchsparse_lite.ops.dataflow import Dataflow

__all__ = ["PackedWeight", "kept_weight"]

_Kept = tuple[weakref.ref[Tensor], tuple[object, ...], list[Tensor]]


class PackedWeight:
    """What a layer keeps of its weight; as much memory as the weight itself.

    It holds the latest weight that was asked for, knows it by identity (weakly) and version, and
    packs it anew after a change in place. Some changes raise no version: those through ``.data``,
    and the steps of fused optimizers. So layers forget what is kept when they change between
    training and evaluation, and when a gradient is wanted. A copy of a layer begins without.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def of(self, weight: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """The packed weight, in parts; empty where nothing may be kept.

        That is: of a weight that is no parameter; under autocast; and while a CUDA graph is
        captured, which then packs it itself, in memory of its own, and so sees later changes. A
        weight that wants a gradient changes soon: what was kept of it is freed.

        Args:
            weight: (kernel_volume, in_channels, out_channels) on CUDA.
            widths: input channels of each part, in their order.
        """
        if torch.is_grad_enabled() and weight.requires_grad:
            self.forget()
            return []
        if not _is_lasting(weight):
            return []
        key = (weight._version, weight.data_ptr(), tuple(widths), _stream(weight))
        kept = self._kept  # read once: another thread may replace it
        if kept is None or kept[0]() is not weight or kept[1] != key:
            kept = weakref.ref(weight), key, gemm.pack_parts(weight, widths)
            self._kept = kept
        return kept[2]

    def forget(self) -> None:
        """Keep nothing."""
        self._kept = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return PackedWeight()

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[()]]:
        return PackedWeight, ()


def kept_weight(
    packed: PackedWeight | None, weight: Tensor, feats: Sequence[Tensor], groups: int = 1
) -> list[Tensor]:
    """The packed weight of a convolution over features side by side; empty if none is kept.

    Args:
        packed: the layer's, or None.
        weight: (kernel_volume, in_channels / groups, out_channels).
        feats: (num_in, channels) each.
        groups: of the convolution.
    """
    if packed is None:
        return []
    if dataflow.conv_dataflow(feats[0], weight, groups) is not Dataflow.TENSOR_CORES:
        return []
    if torch.compiler.is_compiling():
        return []
    return packed.of(weight, [side.shape[1] for side in feats])


def _is_lasting(weight: Tensor) -> bool:
    """Whether a later call may find the same weight, and can tell a changed one."""
    if not isinstance(weight, nn.Parameter) or weight.is_inference():
        return False
    if torch.is_autocast_enabled(weight.device.type):
        return False
    return not (weight.is_cuda and torch.cuda.is_current_stream_capturing())


def _stream(weight: Tensor) -> int:
    """Where it is packed, and so where it is ready without waiting."""
    return torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
