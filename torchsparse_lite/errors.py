# SPDX-License-Identifier: MIT
"""One wording for all messages.

``<function>: <argument> must be <rule>, got <actual>. <what to do>``
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Triple",
    "check_choice",
    "check_cpu",
    "check_dtype",
    "check_integer",
    "check_same_device",
    "check_shape",
    "check_type",
    "needs_extra",
    "per_axis",
    "refuse",
    "refuse_cuda",
    "triple",
]

Triple = tuple[int, int, int]
_INT32 = torch.iinfo(torch.int32)


def refuse(
    where: str, rule: str, actual: object, remedy: str, *, error: type[Exception] = ValueError
) -> NoReturn:
    """Raise ``error`` in the house wording.

    Args:
        where: ``"<function>: <argument>"``.
        rule: what the argument must be, without the words "must be".
        actual: what was given.
        remedy: what to do, as a sentence.
        error: exception type.
    """
    message = f"{where} must be {rule}, got {actual}. {remedy}"
    raise error(message)


def check_type(where: str, value: object, wanted: type | tuple[type, ...], remedy: str) -> None:
    """Raise TypeError unless ``value`` is an instance of ``wanted``."""
    if not isinstance(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        names = " or ".join(kind.__name__ for kind in kinds)
        article = "an" if names[0] in "AEIOU" else "a"
        refuse(where, f"{article} {names}", type(value).__name__, remedy, error=TypeError)


def check_integer(where: str, value: object, remedy: str) -> None:
    """Raise TypeError unless ``value`` is an integer of Python or NumPy."""
    if not _is_integer(value):
        refuse(where, "an integer", repr(value), remedy, error=TypeError)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_shape(where: str, value: Tensor, shape: Sequence[int | None], remedy: str) -> None:
    """Raise ValueError unless ``value`` has this shape; None stands for any extent."""
    fits = value.dim() == len(shape) and all(
        wanted is None or wanted == actual
        for wanted, actual in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if extent is None else str(extent) for extent in shape)
        refuse(where, f"of shape ({wanted})", tuple(value.shape), remedy)


def check_dtype(where: str, value: Tensor, allowed: Iterable[torch.dtype], remedy: str) -> None:
    """Raise TypeError unless ``value`` has one of the dtypes."""
    kinds = tuple(allowed)
    if value.dtype not in kinds:
        names = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
        refuse(where, f"of dtype {names}", value.dtype, remedy, error=TypeError)


def check_same_device(where: str, value: Tensor, other: Tensor, other_name: str) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if value.device != other.device:
        refuse(
            where,
            f"on the device of {other_name} ({other.device})",
            value.device,
            "Move one of them with .to().",
        )


def check_cpu(function: str, value: Tensor) -> None:
    """Raise RuntimeError for a CUDA tensor, with which a build without CUDA cannot compute."""
    if value.is_cuda:
        refuse(
            f"{function}: tensors",
            "on the CPU in a build without its CUDA part",
            "CUDA tensors",
            "Install nvcc and reinstall with TSL_CUDA=ON, or move them with .cpu().",
            error=RuntimeError,
        )


def refuse_cuda(function: str) -> NoReturn:
    """Raise RuntimeError: an operator that has no CUDA version in this build."""
    refuse(
        f"{function}: tensors",
        "on the CPU in this version",
        "CUDA tensors",
        "Move the model and its input with .cpu().",
        error=RuntimeError,
    )


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    known = tuple(choices)
    if value not in known:
        refuse(where, f"one of {', '.join(known)}", repr(value), "Use one of these names.")


def per_axis(value: object, *, one_for_all: bool) -> tuple[Any, ...]:
    """Return the entries of a tensor, an array or an iterable; of anything else that itself.

    Args:
        value: one entry per axis, or a single one; not checked.
        one_for_all: repeat a single one for every axis.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Iterable):
        return tuple(value)
    return (value,) * (3 if one_for_all else 1)


def triple(
    where: str,
    value: int | Iterable[int],
    *,
    minimum: int = _INT32.min,
    one_for_all: bool = True,
) -> Triple:
    """Return three integers, one per axis.

    Args:
        where: ``"<function>: <argument>"``.
        value: an integer or three of them; a tensor or an array will do.
        minimum: the least that each may be.
        one_for_all: a single integer counts for every axis.

    Raises:
        TypeError: there is something else than integers.
        ValueError: there are not three, or one lies outside ``minimum`` to the largest int32.
    """
    rule, remedy = "three integers", "Give one per axis x, y, z."
    if one_for_all:
        rule, remedy = "an integer or three of them", "Give one integer, or one per axis x, y, z."
    values = per_axis(value, one_for_all=one_for_all)
    if not all(_is_integer(v) for v in values):
        refuse(where, rule, repr(value), remedy, error=TypeError)
    if len(values) != 3:
        refuse(where, rule, value, remedy)
    if min(values) < minimum or max(values) > _INT32.max:
        refuse(where, f"from {minimum} to {_INT32.max} in every axis", value, remedy)
    x, y, z = (int(v) for v in values)
    return x, y, z


def needs_extra(function: str, package: str, extra: str) -> Any:
    """Import an optional package where it is used.

    Args:
        function: who needs it.
        package: name to import, dots allowed.
        extra: the extra of this project that installs it.

    Returns:
        The module.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as missing:
        refuse(
            f"{function}: package {package}",
            "installed",
            f"no module named {missing.name}",
            f"Install it with: pip install 'torchsparse_lite[{extra}]'.",
            error=RuntimeError,
        )
