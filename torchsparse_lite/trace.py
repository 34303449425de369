# SPDX-License-Identifier: MIT
"""Names for what is not a layer, so that a trace or a clock says where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch.profiler import record_function

__all__ = ["scope", "watched_scopes"]

_NOTHING = nullcontext()
Watch = Callable[[str], AbstractContextManager[Any]]
_WATCH: ContextVar[Watch | None] = ContextVar("tsl_watch", default=None)


def scope(name: str) -> AbstractContextManager[Any]:
    """A range ``tsl.<name>`` in the trace while torch's profiler runs; otherwise nothing.

    Args:
        name: "voxelize", "map" or "devoxelize".
    """
    # A record_function without a profiler would cost microseconds at each use.
    if torch.compiler.is_compiling():
        return _NOTHING
    watch = _WATCH.get()
    if watch is not None:
        return watch(name)
    if not torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return _NOTHING
    return record_function(f"tsl.{name}")


@contextmanager
def watched_scopes(watch: Watch) -> Iterator[None]:
    """Until it is left, every :func:`scope` of this thread enters what ``watch`` gives instead.

    Args:
        watch: from the name of a scope to a context.
    """
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)
