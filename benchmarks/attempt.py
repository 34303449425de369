# SPDX-License-Identifier: MIT
"""Rows of a suite that goes on where a case fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FAILURES", "attempt", "in_one_line", "largest_error"]

FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What libraries of all kinds raise where they cannot do what is asked."""


def attempt(case: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a case: what it is and what ``run`` measures, or, as "failed", why it does not."""
    try:
        return {**case, **run()}
    except FAILURES as error:
        return {**case, "failed": in_one_line(error)}


def in_one_line(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def largest_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry of ``expected``."""
    if not expected.numel():
        return 0.0
    got, wanted = (tensor.detach().cpu().double() for tensor in (actual, expected))
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
