# SPDX-License-Identifier: MIT
"""Half types on the CPU kernels that are bound by memory: computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sum_dtype", "widened"]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which values of ``dtype`` are summed: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """The tensor in :func:`sum_dtype`, contiguous; itself if it already is."""
    return tensor.to(sum_dtype(tensor.dtype)).contiguous()
