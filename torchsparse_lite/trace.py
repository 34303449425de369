# SPDX-License-Identifier: MIT
"""Names for what is not a layer, so that a trace of torch.profiler says where the time goes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

__all__ = ["scope"]

_NOTHING = nullcontext()


def scope(name: str) -> AbstractContextManager[Any]:
    """A range ``tsl.<name>`` in the trace while torch's profiler runs; otherwise nothing.

    Args:
        name: "voxelize", "map" or "devoxelize".
    """
    # A record_function without a profiler would cost microseconds at each use.
    if torch.compiler.is_compiling():
        return _NOTHING
    if not torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return _NOTHING
    return record_function(f"tsl.{name}")
