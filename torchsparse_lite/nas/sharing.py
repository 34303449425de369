# SPDX-License-Identifier: MIT
"""Which numbers of a large weight a smaller network uses.

Widths share their leading channels; where a layer reads several tensors side by side, those of each
tensor. Kernels share the taps at the same offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.channels import parts_of
from torchsparse_lite.errors import Triple, refuse

__all__ = ["Channels", "Layout", "Taps", "holds", "layouts_of", "take", "union"]


@dataclass(frozen=True)
class Channels:
    """An axis of channels.

    Attributes:
        parts: channels of each tensor that is read side by side.
    """

    parts: tuple[int, ...]

    def joined(self, other: Channels) -> Channels:
        """The wider of each part."""
        return Channels(tuple(max(a, b) for a, b in zip(self.parts, other.parts, strict=True)))

    def holds(self, part: Channels) -> bool:
        """Whether each part of the other is no wider."""
        return len(self.parts) == len(part.parts) and all(
            count <= most for count, most in zip(part.parts, self.parts, strict=True)
        )

    def rows_of(self, part: Channels) -> list[int]:
        """Where a narrower axis lies in this one: the leading channels of each part."""
        starts = accumulate(self.parts[:-1], initial=0)
        counts = zip(starts, part.parts, strict=True)
        return [start + row for start, count in counts for row in range(count)]


@dataclass(frozen=True)
class Taps:
    """An axis of a kernel's taps.

    Attributes:
        offsets: where each tap reads.
    """

    offsets: tuple[Triple, ...]

    def joined(self, other: Taps) -> Taps:
        """All offsets of both."""
        return Taps(tuple(sorted({*self.offsets, *other.offsets})))

    def holds(self, part: Taps) -> bool:
        """Whether it has all offsets of the other."""
        return {*part.offsets} <= {*self.offsets}

    def rows_of(self, part: Taps) -> list[int]:
        """Where the taps of a smaller kernel are."""
        place = {offset: row for row, offset in enumerate(self.offsets)}
        return [place[offset] for offset in part.offsets]


Layout = tuple[Channels | Taps, ...]
"""What the axes of a tensor mean."""


def layouts_of(network: nn.Module) -> dict[str, Layout]:
    """The layout of every parameter and buffer, by its name.

    Args:
        network: of convolutions, linear layers, norms, and modules without numbers of their own.

    Raises:
        TypeError: it holds a layer of another kind.
    """
    result: dict[str, Layout] = {}
    for path, module in network.named_modules():
        for name, tensor in _own_tensors(module):
            result[f"{path}.{name}" if path else name] = _layout(path, module, name, tensor)
    return result


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _layout(path: str, module: nn.Module, name: str, tensor: Tensor) -> Layout:
    if isinstance(module, spnn.Conv3d) and name == "weight":
        inputs = parts_of(module.in_channels) if module.groups == 1 else (tensor.shape[1],)
        taps = Taps(module.window.geometry.offsets)
        return taps, Channels(inputs), Channels((tensor.shape[2],))
    if isinstance(module, nn.Linear) and name == "weight":
        return Channels((tensor.shape[0],)), Channels(parts_of(module.in_features))
    if isinstance(module, (spnn.Conv3d, nn.Linear, spnn.BatchNorm)):
        return tuple(Channels((extent,)) for extent in tensor.shape)
    return refuse(
        f"layouts_of: {path}.{name}",
        "of a convolution, linear layer or batch norm",
        type(module).__name__,
        "Search over networks of these.",
        error=TypeError,
    )


def union(layouts: Iterable[dict[str, Layout]]) -> dict[str, Layout]:
    """Layouts that hold all of the given ones: the widest parts and all offsets."""
    result: dict[str, Layout] = {}
    for networks in layouts:
        for name, layout in networks.items():
            known = result.get(name)
            result[name] = layout if known is None else _joined(name, known, layout)
    return result


def _joined(name: str, one: Layout, other: Layout) -> Layout:
    if [type(axis) for axis in one] != [type(axis) for axis in other]:
        remedy = "Give layers of different kinds different names."
        refuse(f"union: {name}", "of one kind in all networks", f"{one} and {other}", remedy)
    pairs: Any = zip(one, other, strict=True)
    return tuple(a.joined(b) for a, b in pairs)


def holds(whole: Layout, part: Layout) -> bool:
    """Whether a tensor of the first layout has all numbers of one of the second."""
    axes: Any = zip(whole, part, strict=False)
    same = [type(axis) for axis in whole] == [type(axis) for axis in part]
    return same and all(have.holds(want) for have, want in axes)


def take(tensor: Tensor, whole: Layout, part: Layout) -> Tensor:
    """The numbers of a tensor that a smaller layout uses; differentiable.

    A view where the numbers lie in one run along every axis, as they mostly do.

    Args:
        tensor: of layout ``whole``.
        whole: holds ``part``.
        part: of the result.
    """
    axes: Any = zip(whole, part, strict=True)
    for axis, (have, want) in enumerate(axes):
        if have == want:
            continue
        rows = have.rows_of(want)
        first, count = rows[0], len(rows)
        if rows == list(range(first, first + count)):
            tensor = tensor.narrow(axis, first, count)
        else:
            tensor = tensor.index_select(axis, torch.tensor(rows, device=tensor.device))
    return tensor
