# SPDX-License-Identifier: MIT
"""What a measured time depends on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from torchsparse_lite._native import simd_kernels
from torchsparse_lite.version import __version__

__all__ = ["describe_gpu", "describe_machine"]

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # ARM processors are named alike on different boards


def describe_machine() -> dict[str, str]:
    """Processor, kernels, system and versions, by name."""
    return {
        "processor": _processor(),
        "simd": simd_kernels()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchsparse_lite": __version__,
    }


def describe_gpu(device: torch.device) -> dict[str, str]:
    """Name, compute capability and CUDA version of a GPU; nothing for the CPU."""
    if device.type != "cuda":
        return {}
    found = torch.cuda.get_device_properties(device)
    return {
        "gpu": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": str(torch.version.cuda),
    }


def _processor() -> str:
    name = _model_name()
    if _BOARD.is_file():
        return f"{_BOARD.read_text().strip(chr(0))}, {name}"
    return name


def _model_name() -> str:
    if _CPUINFO.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()
