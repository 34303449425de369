# SPDX-License-Identifier: MIT
"""Channels that can change places without changing what a network computes.

Leading channels are what narrower networks keep. So the important ones belong in front: in a
supernet between the phases of its training, in a trained network before it is pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.channels import parts_of
from torchsparse_lite.errors import refuse
from torchsparse_lite.models.blocks import BLOCKS
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.ops import column_sums

__all__ = [
    "ChannelGroup",
    "channel_groups",
    "importance_orders",
    "reorder_channels",
    "sort_channels",
]


@dataclass
class ChannelGroup:
    """Channels that change places together.

    Attributes:
        size: their number.
        makers: names of weights whose outputs they are.
        places: name, axis and first row of every tensor that is ordered by them.
    """

    size: int
    makers: list[str] = field(default_factory=list)
    places: list[tuple[str, int, int]] = field(default_factory=list)


def channel_groups(network: nn.Module) -> list[ChannelGroup]:
    """All channels between the layers of an SPVCNN: not its inputs, not its scores.

    Raises:
        TypeError: it is another network, or fused.
    """
    return list(_Groups(as_spvcnn("channel_groups", network)).find())


class _Groups:
    """Walks through the network as data do."""

    def __init__(self, network: SPVCNN) -> None:
        self._network = network
        self._modules = dict(network.named_modules())
        self._groups: list[ChannelGroup] = []

    def find(self) -> Iterator[ChannelGroup]:
        unet = self._network.unet
        outputs = [self._sequence("unet.stem", None)]
        for number in range(len(unet.down)):
            outputs.append(self._stage(f"unet.down.{number}", [outputs[-1]]))
        skips = outputs[:-1]
        for number in range(len(unet.up)):
            outputs.append(self._stage(f"unet.up.{number}", [outputs[-1], skips.pop()]))
        before: ChannelGroup | None = None
        for stage in self._network.meetings:
            if before is not None:
                last = self._network.meetings[self._network.meetings.index(stage) - 1]
                self._sequence(f"points.{last}_{stage}", [before], outputs[stage])
            before = outputs[stage]
        self._read("classifier", [outputs[-1]])
        yield from self._groups

    def _stage(self, name: str, inputs: list[ChannelGroup]) -> ChannelGroup:
        made = self._sequence(f"{name}.transition", inputs[:1])
        joined = [made, *inputs[1:]]
        blocks: Any = self._modules[f"{name}.blocks"]
        if not len(blocks):
            if len(joined) > 1:
                remedy = "Give the stage a block, or another number of channels."
                refuse("channel_groups: network", "one that joins in a layer", name, remedy)
            return made
        if not isinstance(blocks[0], tuple(BLOCKS.values())):  # a projection alone
            return self._sequence(f"{name}.blocks", joined)
        for number, block in enumerate(blocks):
            own = f"{name}.blocks.{number}"
            is_projected = not isinstance(block.shortcut, nn.Identity)
            output = None if is_projected else joined[0]
            y = joined
            for part in block.parts:
                is_last = part == block.parts[-1]
                y = [self._sequence(f"{own}.{part}", y, output if is_last else None)]
            if is_projected:
                self._sequence(f"{own}.shortcut", joined, y[0])
            joined = y
        return joined[0]

    def _sequence(
        self,
        name: str,
        inputs: list[ChannelGroup] | None,
        output: ChannelGroup | None = None,
    ) -> ChannelGroup:
        """Layers one after the other; the last weight makes ``output``, or channels of its own."""
        layers = [
            path
            for path, module in self._modules.items()
            if path.startswith(f"{name}.") or path == name
            if isinstance(module, (spnn.Conv3d, nn.Linear, spnn.BatchNorm, spnn.SqueezeExcitation))
        ]
        excited = [p for p in layers if isinstance(self._modules[p], spnn.SqueezeExcitation)]
        layers = [p for p in layers if not any(p.startswith(f"{e}.") for e in excited)]
        weights = [p for p in layers if isinstance(self._modules[p], (spnn.Conv3d, nn.Linear))]
        current = inputs
        for path in layers:
            module = self._modules[path]
            if isinstance(module, spnn.SqueezeExcitation):
                self._excite(path, current)
            elif isinstance(module, spnn.BatchNorm):
                self._norm(path, current)
            elif isinstance(module, spnn.Conv3d) and module.groups > 1:
                self._depthwise(path, current)
            else:
                if current is not None:
                    self._read(path, current)
                made = output if output is not None and path == weights[-1] else None
                current = [self._make(path, made)]
        assert current is not None  # noqa: S101 - a sequence has a weight
        return current[0]

    def _read(self, path: str, inputs: list[ChannelGroup]) -> None:
        module: Any = self._modules[path]
        is_linear = isinstance(module, nn.Linear)
        parts = parts_of(module.in_features if is_linear else module.in_channels)
        first = 0
        for group, part in zip(inputs, parts, strict=True):
            group.places.append((f"{path}.weight", 1, first))
            first += part

    def _make(self, path: str, group: ChannelGroup | None) -> ChannelGroup:
        module: Any = self._modules[path]
        is_linear = isinstance(module, nn.Linear)
        if group is None:
            group = ChannelGroup(module.out_features if is_linear else module.out_channels)
            self._groups.append(group)
        group.makers.append(f"{path}.weight")
        group.places.append((f"{path}.weight", 0 if is_linear else 2, 0))
        if module.bias is not None:
            group.places.append((f"{path}.bias", 0, 0))
        return group

    def _norm(self, path: str, current: list[ChannelGroup] | None) -> None:
        if current is not None:
            for name in ("weight", "bias", "running_mean", "running_var"):
                current[0].places.append((f"{path}.{name}", 0, 0))

    def _depthwise(self, path: str, current: list[ChannelGroup] | None) -> None:
        if current is not None:
            current[0].makers.append(f"{path}.weight")
            current[0].places.append((f"{path}.weight", 2, 0))

    def _excite(self, path: str, current: list[ChannelGroup] | None) -> None:
        if current is not None:
            between = self._make(f"{path}.scale.0", None)
            current[0].places.append((f"{path}.scale.0.weight", 1, 0))
            between.places.append((f"{path}.scale.2.weight", 1, 0))
            current[0].places.append((f"{path}.scale.2.weight", 0, 0))


def importance_orders(
    groups: Iterable[ChannelGroup], tensors: Mapping[str, Tensor]
) -> list[Tensor]:
    """The channels of each group, the most important first.

    The importance of a channel is the sum of the magnitudes of the weights that make it. Equal
    channels stay as they are; the result is the same for any number of threads.

    Args:
        groups: of a network.
        tensors: its parameters by name, floating.

    Returns:
        (size,) int64 for each group.
    """
    return [_importance(g, tensors).argsort(descending=True, stable=True) for g in groups]


def _importance(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    importance = torch.zeros(group.size, dtype=torch.float64)
    for name in group.makers:
        axis = next(a for n, a, _ in group.places if n == name and a != 1)
        rows = tensors[name].detach().cpu().abs().movedim(axis, -1).flatten(0, -2)
        importance += column_sums(rows)[0]
    return importance


@torch.no_grad()
def reorder_channels(
    groups: Iterable[ChannelGroup], orders: Iterable[Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Let the channels of each group change places.

    Args:
        groups: of a network.
        orders: for each group (size,) int64, the channel that comes to each place.
        tensors: by the names in the network: its parameters and buffers, or what belongs to some of
            them number by number, such as their gradients. Changed in place.
    """
    for group, order in zip(groups, orders, strict=True):
        for name, axis, first in group.places:
            if name in tensors:
                part = tensors[name].narrow(axis, first, group.size)
                part.copy_(part.index_select(axis, order.to(part.device)))


def sort_channels(network: nn.Module) -> None:
    """Put the most important channels in front; the network computes the same as before.

    What is important: see :func:`importance_orders`.

    Args:
        network: an SPVCNN, changed in place.

    Raises:
        TypeError: it is another network, or fused.
    """
    groups = channel_groups(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    reorder_channels(groups, importance_orders(groups, tensors), tensors)
