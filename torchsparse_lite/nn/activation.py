# SPDX-License-Identifier: MIT
"""torch's layers that work number by number, for voxels and points: activations and Dropout.

torch's own kernels for some of them round the last numbers of a thread's share by another function
than the others, so that a result depends on the threads and on the batch mates. Those are composed
here of functions that do not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite import ops
from torchsparse_lite.features import Rows, check_rows
from torchsparse_lite.ops.widen import sum_dtype

__all__ = [
    "ELU",
    "GELU",
    "Dropout",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LeakyReLU",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]

_LEAST = {torch.float32: -88.0, torch.float64: -709.0}
_LARGE = 40.0


class _OnFeats(nn.Module):
    """Calls torch's own forward on the features of a SparseTensor or a PointTensor."""

    def forward(self, x: Any) -> Any:
        """Apply to every site."""
        check_rows(type(self).__name__, x)
        return x.replace_feats(super().forward(x.feats))


class _Composed(nn.Module):
    """Calls ``value`` on the features; halves are computed in float32 and rounded once."""

    def forward(self, x: Any) -> Any:
        """Apply to every site."""
        check_rows(type(self).__name__, x)
        return x.replace_feats(self.value(x.feats.to(sum_dtype(x.dtype))).to(x.dtype))

    def value(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ReLU(_OnFeats, nn.ReLU):
    """``torch.nn.ReLU`` on the features."""


class ReLU6(_OnFeats, nn.ReLU6):
    """``torch.nn.ReLU6`` on the features."""


class LeakyReLU(_OnFeats, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` on the features."""


class PReLU(nn.PReLU):
    """``torch.nn.PReLU`` on the features; same arguments and state.

    The slope's gradient is a sum over all sites, which torch cuts by the number of threads.
    """

    def forward(self, x: Rows) -> Rows:  # type: ignore[override]
        """Apply to every site."""
        is_shared = self.num_parameters == 1
        check_rows("PReLU", x, *(() if is_shared else self.weight.shape))
        slope = self.weight.expand(x.num_channels)
        negative = ops.scale_shift(x.feats.clamp_max(0), slope)
        return x.replace_feats(x.feats.relu() + negative)


class ELU(_Composed, nn.ELU):
    """``torch.nn.ELU`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """x, and alpha * (exp(x) - 1) below 0."""
        return torch.where(x > 0, x, self.alpha * torch.expm1(x.clamp_max(0)))


class GELU(_Composed, nn.GELU):
    """``torch.nn.GELU`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """X times the normal distribution's share below x."""
        if self.approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
            return 0.5 * x * (1 + torch.tanh(inner))
        return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


class SiLU(_Composed, nn.SiLU):
    """``torch.nn.SiLU`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """X times its sigmoid."""
        return x * _sigmoid(x)


class Mish(_Composed, nn.Mish):
    """``torch.nn.Mish`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """X times tanh of its softplus."""
        return x * torch.tanh(_softplus(x))


class Softplus(_Composed, nn.Softplus):
    """``torch.nn.Softplus`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """log(1 + exp(beta * x)) / beta; x itself beyond the threshold."""
        return torch.where(x * self.beta > self.threshold, x, _softplus(x * self.beta) / self.beta)


class Sigmoid(_Composed, nn.Sigmoid):
    """``torch.nn.Sigmoid`` on the features."""

    def value(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return _sigmoid(x)


class Tanh(_OnFeats, nn.Tanh):
    """``torch.nn.Tanh`` on the features."""


class Hardswish(_OnFeats, nn.Hardswish):
    """``torch.nn.Hardswish`` on the features."""


class Hardsigmoid(_OnFeats, nn.Hardsigmoid):
    """``torch.nn.Hardsigmoid`` on the features."""


class Dropout(_OnFeats, nn.Dropout):
    """``torch.nn.Dropout`` on the features."""


class Identity(_OnFeats, nn.Identity):
    """Gives back its input's features at the same coordinates."""


def _sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)); below the bound, where the exponential would overflow, it is 0 anyway."""
    bound = _LEAST[x.dtype]
    return 1 / (1 + torch.exp(-x.clamp_min(bound)))


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); above the bound it is x to the last bit."""
    return torch.where(x > _LARGE, x, torch.log1p(torch.exp(x.clamp_max(_LARGE))))
