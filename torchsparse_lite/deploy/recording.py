# SPDX-License-Identifier: MIT
"""One recording of a network, which is played on other input."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.ops.room import DEAD
from torchsparse_lite.points import PointTensor
from torchsparse_lite.sizes import Capacities
from torchsparse_lite.tensor import SparseTensor

__all__ = ["Recording"]

_Input = SparseTensor | PointTensor


class Recording:
    """A network on fixed memory.

    Args:
        model: in eval mode.
        example: with at least one row; what sizes are planned by.
        capacity: rows that there is room for.

    Raises:
        RuntimeError: the model waits for the GPU.
        TypeError: the model returns something else than tensors.
    """

    def __init__(self, model: nn.Module, example: _Input, capacity: int) -> None:
        self._model = model
        self._signature = _signature(example)
        self._capacity = capacity
        self._feats = example.feats.new_zeros((capacity, example.num_channels))
        self._coords = example.coords.new_full((capacity, 4), DEAD)
        self._sizes = Capacities(example.device, capacity / len(example))
        self._example = example
        self._fill(example)
        self._run()  # makes the plan
        self._replay = self._recorded() if example.feats.is_cuda else self._run

    def play(self, x: _Input) -> Any:
        """What the model returns for ``x``, or None if it does not fit."""
        if len(x) > self._capacity or _signature(x) != self._signature:
            return None
        self._fill(x)
        self._replay()
        overflow, *counts = self._status.tolist()  # waits for the GPU
        return None if overflow else self._results(x, counts)

    def _fill(self, x: _Input) -> None:
        self._feats[: len(x)].copy_(x.feats)
        self._coords[: len(x)].copy_(x.coords)
        self._coords[len(x) :].fill_(DEAD)

    def _run(self) -> None:
        """Compute on what is there now."""
        self._sizes.begin()
        self._input = self._on_fixed_memory()
        outputs = self._model(self._input)
        self._outputs, self._structure = _leaves(outputs)
        counts = [(o.coords[:, 0] != DEAD).sum().view(1) for o in self._own_sites()]
        self._status = torch.cat([self._sizes.overflow.long(), *counts])

    def _on_fixed_memory(self) -> _Input:
        x = self._example
        if isinstance(x, PointTensor):
            return PointTensor.of_checked(self._feats, self._coords, x.batch_size, self._sizes)
        level = Level(
            self._coords,
            x.stride,
            spatial_shape=x.spatial_shape,
            batch_size=x.batch_size,
            is_morton=x.level.is_morton,
            sizes=self._sizes,
        )
        return SparseTensor.from_level(self._feats, level, CoordinateManager())

    def _recorded(self) -> Callable[[], None]:
        stream = torch.cuda.Stream(self._feats.device)
        stream.wait_stream(torch.cuda.current_stream(self._feats.device))
        with torch.cuda.stream(stream):
            self._run()  # what is made once, at first use, is not to be recorded
        torch.cuda.current_stream(self._feats.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._feats.device), torch.cuda.graph(graph):
                self._run()
        except RuntimeError as error:
            refuse(
                "capture: model",
                "one that does not wait for the GPU",
                str(error).partition("\n")[0],
                "Use half precision, or allow TF32; leave out layers that read from the GPU.",
                error=RuntimeError,
            )
        replay: Callable[[], None] = graph.replay
        return replay

    def _own_sites(self) -> list[SparseTensor]:
        """Outputs at sites that the model made, one for each level."""
        levels = {
            output.level: output
            for output in self._outputs
            if isinstance(output, SparseTensor) and not self._is_on_input(output)
        }
        return list(levels.values())

    def _is_on_input(self, output: SparseTensor) -> bool:
        return isinstance(self._input, SparseTensor) and output.level is self._input.level

    def _results(self, x: _Input, counts: list[int]) -> Any:
        """Copies of the live rows."""
        made = {
            output.level: _cut(output.level, count)
            for output, count in zip(self._own_sites(), counts, strict=True)
        }
        results: list[Any] = []
        for output in self._outputs:
            if isinstance(output, Tensor):
                has_rows = output.shape[:1] == (self._capacity,)
                results.append(output[: len(x)].clone() if has_rows else output.clone())
            elif isinstance(output, PointTensor) or self._is_on_input(output):
                results.append(x.replace_feats(output.feats[: len(x)].clone()))
            else:
                level = made[output.level]
                feats = output.feats[: len(level)].clone()
                results.append(SparseTensor.from_level(feats, level, CoordinateManager()))
        return tree_unflatten(results, self._structure)


def _cut(level: Level, count: int) -> Level:
    return Level(
        level.coords[:count].clone(),
        level.stride,
        spatial_shape=level.spatial_shape,
        batch_size=level.batch_size,
        is_morton=level.is_morton,
    )


def _leaves(outputs: Any) -> tuple[list[Any], TreeSpec]:
    leaves, structure = tree_flatten(outputs)
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, SparseTensor, PointTensor)):
            refuse(
                "capture: model",
                "one that returns tensors, alone or in tuples, lists and dicts",
                type(leaf).__name__,
                "Leave out what is not a tensor.",
                error=TypeError,
            )
    return leaves, structure


def _signature(x: _Input) -> Hashable:
    """What a recording is made for besides the number of rows."""
    kind = x.feats.device.type
    switches = (
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.backends.cuda.matmul.allow_tf32,
    )
    about = type(x), x.device, x.dtype, x.num_channels, x.coords.dtype, x.batch_size, *switches
    if isinstance(x, SparseTensor):
        return *about, x.stride, x.spatial_shape, x.level.is_morton
    return about
