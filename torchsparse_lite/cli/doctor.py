# SPDX-License-Identifier: MIT
"""``tsl doctor``."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version

import torch

from torchsparse_lite import nn
from torchsparse_lite._native import has_cuda, simd_kernels
from torchsparse_lite.tensor import SparseTensor

__all__ = ["doctor", "installed_version"]

_ABSENT = "not installed"


def doctor(arguments: list[str]) -> None:
    """Say what this machine and this installation have, and convolve once."""
    parser = argparse.ArgumentParser("tsl doctor", description=doctor.__doc__)
    parser.parse_args(arguments)
    rows = [
        ("torchsparse_lite", installed_version("torchsparse_lite")),
        ("built with CUDA", "yes" if has_cuda() else "no"),
        ("CPU kernels", ", ".join(simd_kernels())),
        ("torch", torch.__version__),
        ("python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"),
        ("GPU", _gpu()),
        *_extras(),
        ("a convolution", _convolve()),
    ]
    print("\n".join(f"{name:18s} {text}" for name, text in rows))


def installed_version(package: str) -> str:
    """Of a package, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _extras() -> Iterator[tuple[str, str]]:
    """For each extra that users install: complete, or what is missing and how to get it."""
    try:
        about = metadata("torchsparse_lite")
        import_module("packaging")
    except (PackageNotFoundError, ModuleNotFoundError) as problem:
        yield "extras", f"unknown without {problem.name}"
        return
    for extra in about.get_all("Provides-Extra") or ():
        missing = sorted(set(_missing(extra)))
        remedy = f"no {', '.join(missing)}; pip install 'torchsparse_lite[{extra}]'"
        yield f"extra {extra}", remedy if missing else "complete"


def _missing(extra: str) -> Iterator[str]:
    """Names of the packages of an extra that are not installed."""
    about = metadata("torchsparse_lite")
    requirement_of = import_module("packaging.requirements").Requirement
    for line in about.get_all("Requires-Dist") or ():
        requirement = requirement_of(line)
        marker = requirement.marker
        if (
            marker is None
            or marker.evaluate({"extra": ""})
            or not marker.evaluate({"extra": extra})
        ):
            continue
        if requirement.name.replace("-", "_") == "torchsparse_lite":
            for inner in requirement.extras:
                yield from _missing(inner)
            continue
        if installed_version(requirement.name) == _ABSENT:
            yield requirement.name


def _convolve() -> str:
    """Compare one convolution with the sum that it is."""
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
    conv = nn.Conv3d(1, 1, 3, bias=False)
    torch.nn.init.ones_(conv.weight)
    with torch.no_grad():
        result = conv(SparseTensor(torch.tensor([[1.0], [2.0]]), coords)).feats
    return "right" if result.tolist() == [[3.0], [3.0]] else f"WRONG: {result.tolist()}"
