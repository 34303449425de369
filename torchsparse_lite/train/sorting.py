# SPDX-License-Identifier: MIT
"""Channels of a supernet put in order in the middle of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer

from torchsparse_lite.errors import refuse
from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.nas.channels import channel_groups, importance_orders, reorder_channels
from torchsparse_lite.nas.supernet import Supernet

__all__ = ["check_averages", "sort_supernet", "why_unsorted"]


def why_unsorted(supernet: Supernet) -> str | None:
    """Why the channels of a supernet cannot be put in order, as a sentence; None if they can."""
    name, count = supernet.space.name, len(supernet.space.structures)
    if count > 1:
        return f"space {name} has {count} structures, and other channels go together in each."
    if not isinstance(_largest(supernet), SPVCNN):
        return f"the networks of space {name} are no SPVCNNs."
    return None


def check_averages(trainer: Trainer) -> None:
    """Raise ValueError if a callback averages weights in a way that sorting does not know."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            name = type(callback).__name__
            refuse(
                "SupernetSegmentation: trainer.callbacks",
                f"without {name} where channels are sorted between phases",
                "one",
                "Take EMAWeightAveraging, or phases that draw widths from the start.",
            )


def sort_supernet(supernet: Supernet, trainer: Trainer) -> None:
    """Put the most important channels in front, between two steps of a training.

    Networks with all channels compute the same as before. What belongs to a weight goes with it:
    its gradient, the optimizer's moments, and weights that ``WeightAveraging`` averages. All
    processes take the order of the first.

    Args:
        supernet: one that can be sorted, see :func:`why_unsorted`; changed in place.
        trainer: of the training, with its optimizers and callbacks.
    """
    groups = channel_groups(_largest(supernet))
    tensors = supernet.tensors
    orders = trainer.strategy.broadcast(importance_orders(groups, tensors))
    for followers in (tensors, *_followers(tensors, trainer)):
        reorder_channels(groups, orders, followers)


def _largest(supernet: Supernet) -> nn.Module:
    """The network with all layers, without memory."""
    (arch,) = supernet.space.covering()
    with torch.device("meta"):
        return supernet.space.build(arch, **supernet.options)


def _followers(tensors: Mapping[str, Tensor], trainer: Trainer) -> Iterator[dict[str, Tensor]]:
    yield {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
    for optimizer in trainer.optimizers:
        yield from _moments(tensors, optimizer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            average: Any = callback._average_model.module  # a copy of the Lightning module
            yield average.supernet.tensors


def _moments(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> Iterator[dict[str, Tensor]]:
    """Of each kind those of all weights: what has a number for each number of the weight."""
    states = {name: optimizer.state.get(tensor, {}) for name, tensor in tensors.items()}
    for kind in sorted({kind for state in states.values() for kind in state}):
        found = {name: state[kind] for name, state in states.items() if kind in state}
        yield {
            name: value
            for name, value in found.items()
            if isinstance(value, Tensor) and value.shape == tensors[name].shape
        }
