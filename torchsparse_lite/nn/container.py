# SPDX-License-Identifier: MIT
"""A Sequential that takes sparse modules and torch's own."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchsparse_lite.tensor import SparseTensor

__all__ = ["Sequential"]


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` for both kinds of modules.

    Modules of this package (and containers, and your own modules that take a SparseTensor) get the
    sparse tensor. torch's own layers, such as ``torch.nn.ReLU`` or ``torch.nn.BatchNorm1d``, get
    its features.
    """

    def forward(self, x: Any) -> Any:
        """Run the modules one after the other."""
        for module in self:
            if isinstance(x, SparseTensor) and _takes_features(module):
                x = x.replace_feats(module(x.feats))
            else:
                x = module(x)
        return x


def _takes_features(module: nn.Module) -> bool:
    is_container = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return type(module).__module__.startswith("torch.nn.") and not is_container
