# SPDX-License-Identifier: MIT
"""torch's layers that work row by row, for sparse tensors: activations, Dropout, Linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from torchsparse_lite.tensor import SparseTensor

__all__ = [
    "ELU",
    "GELU",
    "Dropout",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LeakyReLU",
    "Linear",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]

_Module = nn.Module if TYPE_CHECKING else object


class _OnFeats(_Module):
    """Calls torch's own forward on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply to every site."""
        feats: Any = super().forward(x.feats)
        return x.replace_feats(feats)


class ReLU(_OnFeats, nn.ReLU):
    """``torch.nn.ReLU`` on the features."""


class ReLU6(_OnFeats, nn.ReLU6):
    """``torch.nn.ReLU6`` on the features."""


class LeakyReLU(_OnFeats, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` on the features."""


class PReLU(_OnFeats, nn.PReLU):
    """``torch.nn.PReLU`` on the features."""


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


class Linear(_OnFeats, nn.Linear):
    """``torch.nn.Linear`` on the features of every site."""


class Identity(_OnFeats, nn.Identity):
    """Gives back its input's features at the same coordinates."""
