# SPDX-License-Identifier: MIT
"""Making one batch of several samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsparse_lite.coordinates import Level, batch_size_of
from torchsparse_lite.errors import check_type, refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor

__all__ = ["collate_fn", "sparse_collate"]


def sparse_collate(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """One tensor of all samples, batch elements numbered on.

    Args:
        tensors: at least one; same stride, channels, dtype and device.

    Returns:
        A tensor whose rows are those of the samples, sample after sample: in Morton order if each
        sample is.

    Raises:
        ValueError: strides, channels or devices differ, or there are more than 1024 elements.
    """
    if not tensors:
        refuse("sparse_collate: tensors", "at least one", "none", "Pass a list of SparseTensors.")
    for tensor in tensors:
        check_type("sparse_collate: tensors", tensor, SparseTensor, "Pass SparseTensors.")
    first = tensors[0]
    for name in ("stride", "num_channels", "device", "dtype", "spatial_shape"):
        values = [getattr(tensor, name) for tensor in tensors]
        if any(value != values[0] for value in values):
            refuse("sparse_collate: tensors", f"of one {name}", values, "Make the samples alike.")
    batch_size = batch_size_of("sparse_collate", sum(tensor.batch_size for tensor in tensors))
    level = Level(
        torch.cat([_shifted(tensor.coords, n) for tensor, n in _numbered(tensors)]),
        first.stride,
        spatial_shape=first.spatial_shape,
        batch_size=batch_size,
        is_morton=all(tensor.level.is_morton for tensor in tensors),
    )
    feats = torch.cat([tensor.feats for tensor in tensors])
    return SparseTensor.from_level(feats, level, CoordinateManager())


def _numbered(tensors: Sequence[Any]) -> list[tuple[Any, int]]:
    """Each tensor with the number of batch elements before it."""
    result, before = [], 0
    for tensor in tensors:
        result.append((tensor, before))
        before += tensor.batch_size
    return result


def _shifted(coords: Tensor, batch: int) -> Tensor:
    return coords + coords.new_tensor([batch, 0, 0, 0])


def _collate_points(tensors: Sequence[PointTensor]) -> PointTensor:
    coords = torch.cat([_shifted(tensor.coords, n) for tensor, n in _numbered(tensors)])
    feats = torch.cat([tensor.feats for tensor in tensors])
    return PointTensor(feats, coords, sum(tensor.batch_size for tensor in tensors))


def collate_fn(samples: Sequence[Any]) -> Any:
    """Collate samples of any structure; give it to ``torch.utils.data.DataLoader``.

    Args:
        samples: all of one structure. Mappings, tuples and lists are collated item by item.

    Returns:
        SparseTensors through :func:`sparse_collate`, PointTensors likewise; tensors, arrays and
        numbers stacked (a list if their shapes differ); anything else as a list.
    """
    if not samples:
        refuse("collate_fn: samples", "at least one", "none", "Check the batch sampler.")
    first = samples[0]
    if isinstance(first, SparseTensor):
        return sparse_collate(samples)
    if isinstance(first, PointTensor):
        return _collate_points(samples)
    if isinstance(first, Mapping):
        return {key: collate_fn([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        items = [collate_fn(item) for item in zip(*samples, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*items)
        return type(first)(items)
    if isinstance(first, np.ndarray):
        return _stacked([torch.from_numpy(sample) for sample in samples])
    if isinstance(first, Tensor):
        return _stacked(list(samples))
    if isinstance(first, (bool, int, float, np.number)):
        return torch.as_tensor(np.asarray(samples))
    return list(samples)


def _stacked(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    is_ragged = any(tensor.shape != tensors[0].shape for tensor in tensors)
    return tensors if is_ragged else torch.stack(tensors)
