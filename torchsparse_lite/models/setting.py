# SPDX-License-Identifier: MIT
"""Where and how a network is run: a device, a type of numbers, fused or not."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from torchsparse_lite.machine import describe_gpu, describe_machine
from torchsparse_lite.nn.fuse import fuse
from torchsparse_lite.points import PointTensor
from torchsparse_lite.timing import CPU

__all__ = ["DTYPES", "HERE", "Setting"]

DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float32", "float16", "bfloat16")}
"""Types of features and weights, by name."""


@dataclass(frozen=True)
class Setting:
    """How networks are run.

    Attributes:
        device: where.
        dtype: of features and weights.
        is_fused: norms and activations are folded into convolutions.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    is_fused: bool = True

    def ready(self, network: nn.Module) -> nn.Module:
        """A copy that is run so, in evaluation."""
        made = fuse(network) if self.is_fused else copy.deepcopy(network).eval()
        return made.to(self.device, self.dtype)

    def place(self, points: PointTensor) -> PointTensor:
        """The points, where and as they are taken; coordinates stay float32."""
        feats = points.feats.to(self.device, self.dtype)
        return PointTensor(feats, points.coords.to(self.device), points.batch_size)

    def describe(self) -> dict[str, str]:
        """What a time depends on: the machine, its GPU if that is the device, and the type."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {**describe_machine(), **describe_gpu(self.device), "dtype": dtype}


HERE = Setting()
"""On the CPU, in float32, fused."""
