# SPDX-License-Identifier: MIT
"""One wording for all messages.

``<function>: <argument> must be <rule>, got <actual>. <what to do>``
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NoReturn

import torch
from torch import Tensor

__all__ = [
    "check_choice",
    "check_dtype",
    "check_same_device",
    "check_shape",
    "check_type",
    "needs_extra",
    "refuse",
    "triple",
]


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
        refuse(where, f"a {names}", type(value).__name__, remedy, error=TypeError)


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


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    known = tuple(choices)
    if value not in known:
        refuse(where, f"one of {', '.join(known)}", repr(value), "Use one of these names.")


def triple(where: str, value: int | Iterable[int], *, minimum: int) -> tuple[int, int, int]:
    """Return ``value`` as three integers, one per axis, each at least ``minimum``."""
    remedy = "Give one integer, or one per axis x, y, z."
    values = tuple(value) if isinstance(value, Iterable) else (value,) * 3
    if any(not isinstance(v, Integral) or isinstance(v, bool) for v in values):
        refuse(where, "an integer or three of them", repr(value), remedy, error=TypeError)
    if len(values) != 3:
        refuse(where, "an integer or three of them", value, remedy)
    if min(values) < minimum:
        refuse(where, f"at least {minimum} in every axis", value, remedy)
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
