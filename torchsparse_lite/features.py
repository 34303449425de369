# SPDX-License-Identifier: MIT
"""What SparseTensor and PointTensor share: a matrix of features with a row per coordinate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchsparse_lite._native import has_cuda
from torchsparse_lite.errors import (
    check_cpu,
    check_dtype,
    check_shape,
    check_type,
    refuse,
)
from torchsparse_lite.sizes import Sizes

__all__ = ["WRAP", "Features", "Rows", "check_feats", "check_rows"]

WRAP = "Wrap features and coordinates in one; plain tensors go through torch's own layers."

_Self = TypeVar("_Self", bound="Features")
Rows = TypeVar("Rows", bound="Features")
"""What layers that treat every row alike take and give: a SparseTensor or a PointTensor."""
_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Features:
    """What a tensor of features can do whatever its coordinates are."""

    feats: Tensor
    sizes: Sizes

    def replace_feats(self: _Self, feats: Tensor) -> _Self:
        """Other features at the same coordinates."""
        raise NotImplementedError

    def to(self: _Self, *args: Any, **kwargs: Any) -> _Self:
        """Move or convert, as ``torch.Tensor.to``; a dtype applies to the features only."""
        raise NotImplementedError

    def _map_feats(self: _Self, function: Callable[[Tensor], Tensor]) -> _Self:
        return self.replace_feats(function(self.feats))

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.feats.dtype

    @property
    def num_channels(self) -> int:
        """Number of columns of the features."""
        return self.feats.shape[1]

    @property
    def shape(self) -> torch.Size:
        """Shape of the features, (N, C)."""
        return self.feats.shape

    @property
    def requires_grad(self) -> bool:
        """Whether the features are part of a graph."""
        return self.feats.requires_grad

    def cpu(self: _Self) -> _Self:
        """Copy on the CPU (itself moved nowhere if already there)."""
        return self.to("cpu")

    def cuda(self: _Self, device: int | torch.device | None = None) -> _Self:
        """Copy on a CUDA device, the current one by default."""
        return self.to(
            torch.device("cuda", device) if isinstance(device, int) else device or "cuda"
        )

    def half(self: _Self) -> _Self:
        """Features as float16."""
        return self.to(torch.float16)

    def bfloat16(self: _Self) -> _Self:
        """Features as bfloat16."""
        return self.to(torch.bfloat16)

    def float(self: _Self) -> _Self:
        """Features as float32."""
        return self.to(torch.float32)

    def double(self: _Self) -> _Self:
        """Features as float64."""
        return self.to(torch.float64)

    def detach(self: _Self) -> _Self:
        """The same values outside the graph."""
        return self._map_feats(Tensor.detach)

    def clone(self: _Self) -> _Self:
        """A copy of the features; coordinates are shared, since they never change."""
        return self._map_feats(Tensor.clone)

    def requires_grad_(self: _Self, requires_grad: bool = True) -> _Self:  # noqa: FBT001, FBT002
        """Set whether gradients reach the features; returns self, as torch does."""
        self.feats.requires_grad_(requires_grad)
        return self

    def __len__(self) -> int:
        return self.feats.shape[0]


def check_feats(function: str, feats: Tensor) -> None:
    """Raise unless ``feats`` is an (N, C) floating tensor on a device that this build knows."""
    remedy = "Give one row of features per coordinate, (N, C)."
    check_type(f"{function}: feats", feats, Tensor, remedy)
    if not has_cuda():
        check_cpu(function, feats)
    check_shape(f"{function}: feats", feats, (None, None), remedy)
    check_dtype(f"{function}: feats", feats, _FLOATING, "Convert them with .float().")


def check_rows(function: str, x: Any, *channels: int) -> None:
    """Raise unless ``x`` has features, of shape (N, *channels) where that is given."""
    if not isinstance(x, Features):
        refuse(
            f"{function}: x",
            "a SparseTensor or a PointTensor",
            type(x).__name__,
            WRAP,
            error=TypeError,
        )
    if channels:
        remedy = "Match the layer's channels to the features."
        check_shape(f"{function}: feats", x.feats, (None, *channels), remedy)
