# SPDX-License-Identifier: MIT
"""Weights in files: torch's own and safetensors. Reading never runs code out of a file."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite.errors import check_type, needs_extra, refuse
from torchsparse_lite.whole_file import write_whole

__all__ = ["from_torch", "read_weights", "save_weights", "weights_in"]

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "network")
_SAFE = ".safetensors"
_COPY_AGAIN = "It is truncated or damaged, or no file of weights: copy or download it again."
# What a damaged file raises: the bytes of a pickle are read as instructions.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
_NEEDS_CODE = re.compile("GLOBAL|nsupported class")


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write parameters and buffers.

    The file appears whole or not at all: an earlier one stays until the new one is on the disk.

    Args:
        network: any module.
        path: ``*.safetensors`` (extra ``safetensors``) or any other name for ``torch.save``.

    Raises:
        OSError: no space or no permission; the earlier file is as it was.
    """
    check_type("save_weights: network", network, nn.Module, "Pass a torch.nn.Module.")
    file = Path(path)
    # Copies, since safetensors refuses tensors that share memory.
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    if file.suffix == _SAFE:
        content = needs_extra("save_weights", "safetensors.torch", "safetensors").save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
    write_whole("save_weights", file, content)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Names and tensors of a file, on the CPU.

    Args:
        path: ``*.safetensors`` (extra ``safetensors``), or what ``torch.save`` wrote: a state dict,
            bare or below one of the usual keys (``model``, ``state_dict``, ...).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds something else, or is a pickle that needs code.
        RuntimeError: safetensors is not installed.
    """
    file = Path(path)
    if not file.is_file():
        refuse(
            "read_weights: path",
            "an existing file",
            f"{file}",
            "Check the name; weights are not downloaded.",
            error=FileNotFoundError,
        )
    read = _from_safetensors if file.suffix == _SAFE else from_torch
    return weights_in("read_weights", read(file, file.read_bytes()))


def _from_safetensors(file: Path, content: bytes) -> Any:
    library = needs_extra("read_weights", "safetensors", "safetensors")
    from_torch = needs_extra("read_weights", "safetensors.torch", "safetensors")
    try:
        return from_torch.load(content)
    except library.SafetensorError as problem:
        refuse("read_weights: path", "a safetensors file", f"{file} ({problem})", _COPY_AGAIN)


def from_torch(file: Path, content: bytes) -> Any:
    """What ``torch.save`` wrote; nothing of it is executed, and its checksums are compared."""
    rule = "a file written by torch.save"
    try:
        _check_sums(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _DAMAGED as problem:
        if isinstance(problem, pickle.UnpicklingError) and _NEEDS_CODE.search(str(problem)):
            refuse(
                "read_weights: path",
                "a pickle of tensors alone",
                f"{file}, which needs code: {_reason(problem)}",
                "If you trust it, load it once with torch.load(weights_only=False) where its "
                "library is installed, and save its state_dict() alone.",
            )
        refuse("read_weights: path", rule, f"{file} ({_reason(problem)})", _COPY_AGAIN)


def _check_sums(content: bytes) -> None:
    """Refuse an archive with a wrong checksum, which torch itself does not look at."""
    file = io.BytesIO(content)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            message = f"wrong checksum of {wrong}"
            raise zipfile.BadZipFile(message)


def _reason(problem: Exception) -> str:
    """The sentence of a long message that says what is wrong."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    told = [line for line in lines if _NEEDS_CODE.search(line)] or lines
    return told[0].removesuffix(".") if told else type(problem).__name__


def weights_in(function: str, content: Any) -> dict[str, Tensor]:
    """The names and tensors of a state dict, which may lie below one of the usual keys.

    Raises:
        TypeError: it is no mapping of names to tensors.
    """
    remedy = "Pass the part with the weights, such as checkpoint['model']."
    check_type(f"{function}: state", content, Mapping, remedy)
    while inner := [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]:
        content = inner[0]
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            refuse(
                f"{function}: state",
                "a mapping of names to tensors",
                f"{type(value).__name__} at {name!r}",
                remedy,
                error=TypeError,
            )
    return dict(content)
