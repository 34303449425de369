# SPDX-License-Identifier: MIT
"""A network recorded as a CUDA graph: voxels, kernel maps and layers in one launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchsparse_lite.deploy.recording import Recording
from torchsparse_lite.errors import check_integer, check_type, refuse
from torchsparse_lite.features import WRAP
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor

__all__ = ["Captured", "capture"]

_ROOM = 1.25


def capture(model: nn.Module, capacity: int | None = None) -> Captured:
    """Make a network that records itself as a CUDA graph and plays it on other input.

    On a GPU the first call records: it looks how many sites and pairs the input has at each level
    and takes the same with room as fixed sizes. Calls after that copy their input in, play the
    graph, and wait once, at the end. An input that does not fit (no rows or more than ``capacity``,
    more sites or pairs somewhere than there is room for, another dtype, width or batch size) is
    computed as usual, and counted in :attr:`Captured.fallbacks`. The results are those of
    ``model``, up to the order of sums. One call at a time: they share the memory of the graph.

    Fold it first: ``capture(nn.fuse(model).half())``. Convolutions must be ones that run without
    waiting for the GPU: halves, or float32 where torch's switch allows TF32, in one group; or
    depthwise ones.

    On the CPU there is nothing to record, and ``model`` is called.

    Args:
        model: in eval mode; takes a SparseTensor or a PointTensor, returns tensors of any of the
            three kinds, alone or in tuples, lists and dicts. Plain ones have a row for each of the
            input's, or a size of their own; points are those of the input. Weights are read as they
            are at each call; where they have moved, the model is recorded anew.
        capacity: rows (points or sites) that there is room for; by default a quarter more than
            those of the first input. All else gets room in proportion to what that one needs, so it
            should be a typical one.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``model`` is in training mode; ``capacity`` is not positive.
    """
    check_type("capture: model", model, nn.Module, "Pass a network.")
    if capacity is not None:
        check_integer("capture: capacity", capacity, "Give the rows of the largest input.")
        if capacity < 1:
            remedy = "Give the rows of the largest input."
            refuse("capture: capacity", "positive", capacity, remedy)
    _check_eval("capture: model", model)
    return Captured(model, capacity)


class Captured(nn.Module):
    """What :func:`capture` returns; called as the network itself.

    Attributes:
        model: the network.
        fallbacks: calls that were computed as usual because they did not fit.
    """

    def __init__(self, model: nn.Module, capacity: int | None) -> None:
        super().__init__()
        self.model = model
        self.training = False
        self.capacity = capacity
        self.fallbacks = 0
        self._recording: Recording | None = None
        self._memory: list[int] = []

    def forward(self, x: SparseTensor | PointTensor) -> Any:
        """As of ``model``, without gradients."""
        check_type("Captured: x", x, (SparseTensor, PointTensor), WRAP)
        _check_eval("Captured: model", self.model)
        if not x.feats.is_cuda:
            return self._as_usual(x)
        played = self._played(x, self._capacity_for(x))
        if played is not None:
            return played
        self.fallbacks += 1
        return self._as_usual(x)

    @torch.no_grad()
    def _as_usual(self, x: SparseTensor | PointTensor) -> Any:
        return self.model(x)

    def _played(self, x: SparseTensor | PointTensor, capacity: int) -> Any:
        """The result, or None if it does not fit."""
        if not 0 < len(x) <= capacity:
            return None
        memory = _addresses(self.model)
        if self._recording is None or memory != self._memory:
            self._recording = None  # frees what it holds
            self._recording, self._memory = Recording(self.model, x, capacity), memory
        return self._recording.play(x)

    def _capacity_for(self, x: SparseTensor | PointTensor) -> int:
        if self.capacity is None and len(x):
            self.capacity = int(_ROOM * len(x)) + 1
        return self.capacity or 0

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"capacity={self.capacity}"


def _check_eval(where: str, model: nn.Module) -> None:
    if model.training:
        remedy = "Call .eval() on it, or fuse it: nn.fuse(model)."
        refuse(where, "in eval mode", "one in training mode", remedy)


def _addresses(model: nn.Module) -> list[int]:
    """Where parameters and buffers lie, at each call; ``model.parameters()`` takes far longer."""
    found, modules = [], [model]
    for module in modules:
        tensors = (*module._parameters.values(), *module._buffers.values())
        found += [tensor.data_ptr() for tensor in tensors if tensor is not None]
        modules += [child for child in module._modules.values() if child is not None]
    return found
