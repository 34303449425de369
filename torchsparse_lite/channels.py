# SPDX-License-Identifier: MIT
"""Numbers of channels."""

from __future__ import annotations

__all__ = ["Joined", "parts_of"]


class Joined(int):
    """A number of channels that knows of which tensors, side by side, it is the sum.

    Layers keep the number they are given, so that one can tell which of a layer's weights read
    which tensor: sharing weights between networks of different widths needs that.

    Args:
        *parts: channels of each tensor, in their order.
    """

    parts: tuple[int, ...]

    def __new__(cls, *parts: int) -> Joined:  # noqa: D102
        joined = super().__new__(cls, sum(parts))
        joined.parts = parts
        return joined

    def __getnewargs__(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.parts


def parts_of(channels: int) -> tuple[int, ...]:
    """The parts; of a plain number itself."""
    return channels.parts if isinstance(channels, Joined) else (channels,)
