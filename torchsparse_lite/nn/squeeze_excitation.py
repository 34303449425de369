# SPDX-License-Identifier: MIT
"""Squeeze-and-excitation: channels weighed by what the whole cloud holds."""

from __future__ import annotations

import torch
from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.errors import check_integer, refuse
from torchsparse_lite.nn.activation import ReLU, Sigmoid
from torchsparse_lite.nn.container import Sequential
from torchsparse_lite.nn.functional import global_avg_pool
from torchsparse_lite.nn.linear import Linear
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["SqueezeExcitation"]


class SqueezeExcitation(nn.Module):
    """Scales every channel of a batch element by a number in (0, 1) made from all channels' means.

    The means are over the occupied sites.

    Args:
        channels: of the input.
        reduction: how many times narrower the layer between is; at least one channel stays.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        remedy = "Give how many times narrower the layer between is, for example 8."
        check_integer("SqueezeExcitation: reduction", reduction, remedy)
        if reduction < 1:
            refuse("SqueezeExcitation: reduction", "at least 1", reduction, remedy)
        self.channels = channels
        width = max(channels // reduction, 1)
        self.scale = Sequential(
            Linear(channels, width, bias=False),
            ReLU(),
            Linear(width, channels, bias=False),
            Sigmoid(),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, channels) to the same shape."""
        check_sparse("SqueezeExcitation", x, self.channels)
        means = global_avg_pool(x)
        # One row per batch element; where it lies does not matter.
        origin = means.new_zeros((len(means), 4), dtype=torch.float32)
        scale = self.scale(PointTensor.of_checked(means, origin, 1)).feats
        batch = x.coords[:, :1].long()
        return x.replace_feats(
            x.feats * ops.interpolate(scale, batch, scale.new_ones(batch.shape)).to(x.dtype)
        )
