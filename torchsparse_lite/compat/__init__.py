# SPDX-License-Identifier: MIT
"""Weights to and from files, and from other libraries into ours."""

from torchsparse_lite.compat.files import read_weights, save_weights
from torchsparse_lite.compat.kernels import SOURCES, KernelLayout, convert_kernel
from torchsparse_lite.compat.published import (
    load_centerpoint,
    load_minkowski_unet,
    load_spvnas,
)
from torchsparse_lite.compat.weights import load_weights

__all__ = [
    "SOURCES",
    "KernelLayout",
    "convert_kernel",
    "load_centerpoint",
    "load_minkowski_unet",
    "load_spvnas",
    "load_weights",
    "read_weights",
    "save_weights",
]
