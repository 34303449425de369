# SPDX-License-Identifier: MIT
"""Folding batch norm and activation into the convolution before them, for inference."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from torchsparse_lite.errors import refuse
from torchsparse_lite.nn.container import Sequential
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.window import Target
from torchsparse_lite.tensor import SparseTensor

__all__ = ["ConvReLU", "fold_batch_norm", "fuse"]


class ConvReLU(nn.Module):
    """A convolution and its ReLU in one pass over the output.

    Args:
        conv: the convolution.
    """

    def __init__(self, conv: Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(
        self,
        x: SparseTensor,
        target: Target | None = None,
        *,
        residual: SparseTensor | None = None,
    ) -> SparseTensor:
        """Compute ``relu(conv(x) + residual)``."""
        return self.conv(x, target, residual=residual, relu=True)  # type: ignore[no-any-return]


def fold_batch_norm(conv: Conv3d, norm: nn.BatchNorm1d | nn.SyncBatchNorm) -> Conv3d:
    """A convolution that computes ``norm(conv(x))`` with the norm's running statistics.

    Args:
        conv: any convolution.
        norm: batch norm over its output channels, synchronized or not, with running statistics.

    Returns:
        A new convolution with a bias.
    """
    if norm.running_mean is None or norm.running_var is None:
        refuse(
            "fold_batch_norm: norm",
            "a batch norm with running statistics",
            "track_running_stats=False",
            "Only such a norm is a fixed scale and shift.",
        )
    if norm.num_features != conv.out_channels:
        refuse(
            "fold_batch_norm: norm",
            f"over the convolution's {conv.out_channels} channels",
            norm.num_features,
            "Pass the norm that follows the convolution.",
        )
    folded = copy.deepcopy(conv)
    if is_parametrized(folded):  # torch's own removal would change the class that conv shares
        folded.__class__ = type_before_parametrizations(conv)
        del folded.parametrizations
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        if conv.bias is not None:
            shift = shift + conv.bias.double() * scale
        folded.weight = nn.Parameter((conv.weight.double() * scale).to(conv.weight.dtype))
        folded.bias = nn.Parameter(shift.to(conv.weight.dtype))
    return folded


def fuse(model: nn.Module) -> nn.Module:
    """A copy of the model for inference, in eval mode.

    Inside every Sequential, ``Conv3d, BatchNorm`` (or ``SyncBatchNorm``) becomes one convolution,
    and a ``ReLU`` behind it joins its pass. What remains keeps its name; numbers are counted anew.
    A module that wires its layers itself can have a method ``fused()``: what it returns takes its
    place, after its parts were fused. :func:`fold_batch_norm`, ``conv(x, residual=..., relu=True)``
    and ``nn/conv_sum.py`` are there for it.

    Args:
        model: left as it is.
    """
    return _fused(copy.deepcopy(model)).eval()


def _fused(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    if isinstance(module, nn.Sequential):
        return _fused_sequential(module)
    own = getattr(module, "fused", None)
    return module if own is None else own()


def _fused_sequential(sequential: nn.Sequential) -> nn.Sequential:
    if type(sequential) not in (nn.Sequential, Sequential):
        return sequential
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = ""
    for name, layer in sequential._modules.items():
        conv = layers.get(last)
        if isinstance(conv, Conv3d) and isinstance(layer, (nn.BatchNorm1d, nn.SyncBatchNorm)):
            layers[last] = fold_batch_norm(conv, layer)
        elif isinstance(conv, Conv3d) and isinstance(layer, nn.ReLU):
            layers[last] = ConvReLU(conv)
        else:
            layers[name] = layer
            last = name
    is_numbered = all(name.isdecimal() for name in layers)
    return type(sequential)(*layers.values()) if is_numbered else type(sequential)(layers)
