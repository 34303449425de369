# SPDX-License-Identifier: MIT
"""One recording of a network, which is played on other input."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.ops.dataflow import allows_tf32
from torchsparse_lite.ops.room import DEAD
from torchsparse_lite.points import PointTensor
from torchsparse_lite.sizes import EXACT, Capacities
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
        ValueError: it returns rows of which nobody knows afterwards how many are live.
    """

    @torch.inference_mode(mode=False)  # memory made in that mode could not be written outside of it
    @torch.no_grad()
    def __init__(self, model: nn.Module, example: _Input, capacity: int) -> None:
        self._model = model
        self._signature = _signature(example)
        self._capacity = capacity
        self._feats = example.feats.new_zeros((capacity, example.num_channels))
        self._coords = example.coords.new_full((capacity, 4), DEAD)
        self._sizes = Capacities(example.device, capacity / len(example))
        self._fixed = _input_on(self._feats, self._coords, example, self._sizes)
        as_usual, _ = _leaves(model(example))
        self._fill(example)
        self._run()  # makes the plan
        self._has_rows: list[bool] = []
        self._find_rows(as_usual, len(example))
        self._replay = self._recorded() if example.feats.is_cuda else self._run

    @torch.inference_mode(mode=False)
    @torch.no_grad()
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
        self._input = self._fixed()
        with _without_autocast_cache(self._feats.device.type):
            outputs = self._model(self._input)
        self._outputs, self._structure = _leaves(outputs)
        counts = [(o.coords[:, 0] != DEAD).sum().view(1) for o in self._own_sites()]
        self._status = torch.cat([self._sizes.overflow.long(), *counts])

    def _find_rows(self, as_usual: list[Any], rows: int) -> None:
        """Find the plain tensors that have a row for each of the input's.

        Raises ValueError if an output has rows that are neither those nor a level's.

        Args:
            as_usual: what the model returns for the example itself.
            rows: of the example.
        """
        for exact, output in zip(as_usual, self._outputs, strict=True):
            is_elsewhere = isinstance(output, PointTensor) and output.coords is not self._coords
            is_plain = isinstance(output, Tensor)
            lengths = (exact.shape[:1], output.shape[:1])
            self._has_rows.append(is_plain and lengths == ((rows,), (self._capacity,)))
            differs = is_plain and exact.shape != output.shape and not self._has_rows[-1]
            if is_elsewhere or differs:
                self._refuse_rows(output)

    def _refuse_rows(self, output: Tensor | PointTensor) -> None:
        refuse(
            "capture: model",
            "one that returns its rows at the input's points or sites, or as a SparseTensor",
            f"a {type(output).__name__} of shape {tuple(output.shape)} with room for other rows",
            "Return the SparseTensor, not its feats.",
        )

    def _recorded(self) -> Callable[[], None]:
        device = self._feats.device
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        # torch's own stream for this belongs to the GPU of the first capture, and after a failure
        # stays the current one. Threads that load data go on with theirs.
        with torch.cuda.device(device), torch.cuda.stream(stream):
            self._run()  # what is made once, at first use, is not to be recorded
            self._record(graph, stream)
        torch.cuda.current_stream(device).wait_stream(stream)
        replay: Callable[[], None] = graph.replay
        return replay

    def _record(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._run()
        except RuntimeError as error:
            refuse(
                "capture: model",
                "one that does not wait for the GPU",
                str(error).partition("\n")[0],
                "Use half precision, or allow TF32; leave out layers that read from the GPU.",
                error=RuntimeError,
            )

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
        for output, has_rows in zip(self._outputs, self._has_rows, strict=True):
            if isinstance(output, Tensor):
                results.append(output[: len(x)].clone() if has_rows else output.clone())
            elif isinstance(output, PointTensor) or self._is_on_input(output):
                results.append(x.replace_feats(output.feats[: len(x)].clone()))
            else:
                level = made[output.level]
                feats = output.feats[: len(level)].clone()
                results.append(SparseTensor.from_level(feats, level, CoordinateManager()))
        return tree_unflatten(results, self._structure)


def _input_on(
    feats: Tensor, coords: Tensor, like: _Input, sizes: Capacities
) -> Callable[[], _Input]:
    """Makes the input of a run on this memory: each time a new one, of which nothing is known."""
    batch_size = like.batch_size
    if isinstance(like, PointTensor):
        return lambda: PointTensor.of_checked(feats, coords, batch_size, sizes)
    stride, spatial_shape, is_morton = like.stride, like.spatial_shape, like.level.is_morton

    def voxels() -> SparseTensor:
        level = Level(
            coords.data,  # counts no versions: it is written between the runs, and levels stay
            stride,
            spatial_shape=spatial_shape,
            batch_size=batch_size,
            is_morton=is_morton,
            sizes=sizes,
        )
        return SparseTensor.from_level(feats, level, CoordinateManager())

    return voxels


def _without_autocast_cache(kind: str) -> AbstractContextManager[object]:
    """Autocast as it is, but for what it keeps of weights: it is freed while a graph reads it."""
    dtype = torch.get_autocast_dtype(kind)
    is_enabled = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, dtype=dtype, enabled=is_enabled, cache_enabled=False)


def _cut(level: Level, count: int) -> Level:
    return level.like(level.coords[:count].clone(), is_morton=level.is_morton, sizes=EXACT)


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
        allows_tf32(),
    )
    about = type(x), x.device, x.dtype, x.num_channels, x.coords.dtype, x.batch_size, *switches
    if isinstance(x, SparseTensor):
        return *about, x.stride, x.spatial_shape, x.level.is_morton
    return about
