# SPDX-License-Identifier: MIT
"""The only importer of the compiled module. Importing it touches no device."""

from __future__ import annotations

try:
    from torchsparse_lite import _C as C
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        "torchsparse_lite: the compiled module must be installed, got "
        f"'{error}'. Run `pip install .` (or `pip install -e .`) in the source folder; it needs a "
        "C++17 compiler and nothing of torch."
    ) from error

__all__ = ["C", "has_cuda", "simd_kernels"]


def has_cuda() -> bool:
    """Whether this build holds the CUDA part. Says nothing about the machine it runs on."""
    return bool(C.has_cuda)


def simd_kernels() -> list[str]:
    """Names of the CPU kernels that this processor can run, the one in use first."""
    return list(C.simd_kernels())
