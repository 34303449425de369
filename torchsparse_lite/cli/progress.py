# SPDX-License-Identifier: MIT
"""Progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

__all__ = ["bar"]

_Item = TypeVar("_Item")


def bar(items: Iterable[_Item], text: str, count: int) -> Iterable[_Item]:
    """The items, with a bar of tqdm; a count where only the core is installed.

    Args:
        items: to go through.
        text: what is done with them.
        count: of the items.
    """
    if find_spec("tqdm") is None:
        return _counted(items, text, count)
    wrapped: Iterable[_Item] = import_module("tqdm").tqdm(items, text, total=count)
    return wrapped


def _counted(items: Iterable[_Item], text: str, count: int) -> Iterator[_Item]:
    for number, item in enumerate(items):
        sys.stderr.write(f"\r{text}: {number} of {count}")
        sys.stderr.flush()
        yield item
    sys.stderr.write(f"\r{text}: {count} of {count}\n")
