# SPDX-License-Identifier: MIT
"""Making one batch of several samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsparse_lite.coordinates import batch_size_of
from torchsparse_lite.errors import check_type, refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor, sparse_list

__all__ = ["collate_fn", "sparse_collate"]

_NUMBERS = (bool, int, float, np.number, np.bool_)
_KINDS = (SparseTensor, PointTensor, Mapping, (tuple, list), np.ndarray, Tensor, _NUMBERS)
_FEATURES = ("num_channels", "device", "dtype")
_ALIKE = "Make the samples alike."


def sparse_collate(tensors: Iterable[SparseTensor]) -> SparseTensor:
    """One tensor of all samples, batch elements numbered on.

    Args:
        tensors: at least one; same stride, channels, dtype and device.

    Returns:
        A tensor whose rows are those of the samples, sample after sample: in Morton order if each
        sample is.

    Raises:
        TypeError: not SparseTensors.
        ValueError: there is none; strides, channels, dtypes or devices differ; or there are more
            than 1024 elements.
    """
    tensors = sparse_list("sparse_collate", tensors)
    first = tensors[0]
    _check_alike("sparse_collate: tensors", tensors, *_FEATURES, "stride", "spatial_shape")
    batch_size = batch_size_of("sparse_collate", sum(tensor.batch_size for tensor in tensors))
    level = first.level.like(
        torch.cat([_shifted(tensor.coords, n) for tensor, n in _numbered(tensors)]),
        is_morton=all(tensor.level.is_morton for tensor in tensors),
        batch_size=batch_size,
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
    _check_alike("collate_fn: samples", tensors, *_FEATURES, "coords.dtype")
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

    Raises:
        TypeError: a sample is of another kind than the first.
        ValueError: there is no sample; mappings differ in their keys, sequences in their length,
            SparseTensors or PointTensors in what their rows are.
    """
    if not samples:
        refuse("collate_fn: samples", "at least one", "none", "Check the batch sampler.")
    first = samples[0]
    _check_kind(samples)
    if isinstance(first, SparseTensor):
        return sparse_collate(samples)
    if isinstance(first, PointTensor):
        return _collate_points(samples)
    if isinstance(first, Mapping):
        _check_one(
            "collate_fn: samples", "set of keys", [sorted(sample, key=str) for sample in samples]
        )
        return {key: collate_fn([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        _check_one("collate_fn: samples", "length", [len(sample) for sample in samples])
        items = [collate_fn(item) for item in zip(*samples, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*items)
        return type(first)(items)
    if isinstance(first, np.ndarray):
        # Torch takes no negative strides, and warns of arrays that must not be written.
        arrays = [np.require(sample, requirements=["C", "W"]) for sample in samples]
        return _stacked([torch.from_numpy(array) for array in arrays])
    if isinstance(first, Tensor):
        return _stacked(list(samples))
    if isinstance(first, _NUMBERS):
        return torch.as_tensor(np.asarray(samples))
    return list(samples)


def _check_kind(samples: Sequence[Any]) -> None:
    """Raise TypeError unless all samples are collated as the first is."""
    wanted = next((kind for kind in _KINDS if isinstance(samples[0], kind)), object)
    for sample in samples:
        check_type("collate_fn: samples", sample, wanted, _ALIKE)


def _check_alike(where: str, tensors: Sequence[Any], *names: str) -> None:
    """Raise ValueError unless these attributes are the same in all tensors."""
    for name in names:
        _check_one(where, name, [attrgetter(name)(tensor) for tensor in tensors])


def _check_one(where: str, name: str, values: list[Any]) -> None:
    """Raise ValueError unless all values are equal."""
    if any(value != values[0] for value in values):
        refuse(where, f"of one {name}", values, _ALIKE)


def _stacked(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    is_ragged = any(tensor.shape != tensors[0].shape for tensor in tensors)
    return tensors if is_ragged else torch.stack(tensors)
