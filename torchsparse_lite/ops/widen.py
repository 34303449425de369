# SPDX-License-Identifier: MIT
"""Half types in the kernels that are bound by memory: summed in float32.

Those of the GPU read them as they are; for those of the CPU they are widened first.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sum_dtype", "widened"]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which values of ``dtype`` are summed: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """The tensor as the kernels of its device read it, contiguous: on the CPU in sum_dtype."""
    dtype = tensor.dtype if tensor.is_cuda else sum_dtype(tensor.dtype)
    return tensor.to(dtype).contiguous()
