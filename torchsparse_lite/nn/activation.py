# SPDX-License-Identifier: MIT
"""torch's layers that work number by number, for sparse tensors: activations and Dropout."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.tensor import SparseTensor, check_sparse

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


class _OnFeats(nn.Module):
    """Calls torch's own forward on the features of a SparseTensor."""

    def forward(self, x: Any) -> Any:
        """Apply to every site."""
        check_sparse(type(self).__name__, x)
        return x.replace_feats(super().forward(x.feats))


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

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Apply to every site."""
        is_shared = self.num_parameters == 1
        check_sparse("PReLU", x, *(() if is_shared else self.weight.shape))
        slope = self.weight.expand(x.num_channels)
        negative = ops.scale_shift(x.feats.clamp_max(0), slope)
        return x.replace_feats(x.feats.relu() + negative)


class ELU(_OnFeats, nn.ELU):
    """``torch.nn.ELU`` on the features."""


class GELU(_OnFeats, nn.GELU):
    """``torch.nn.GELU`` on the features."""


class SiLU(_OnFeats, nn.SiLU):
    """``torch.nn.SiLU`` on the features."""


class Mish(_OnFeats, nn.Mish):
    """``torch.nn.Mish`` on the features."""


class Softplus(_OnFeats, nn.Softplus):
    """``torch.nn.Softplus`` on the features."""


class Sigmoid(_OnFeats, nn.Sigmoid):
    """``torch.nn.Sigmoid`` on the features."""


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
