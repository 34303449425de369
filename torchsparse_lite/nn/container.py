# SPDX-License-Identifier: MIT
"""A Sequential that takes sparse modules and torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from torchsparse_lite.features import Features

__all__ = ["Sequential", "in_sequence"]


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` for both kinds of modules.

    Modules of this package (and containers, and your own modules, which take a SparseTensor) get
    the sparse tensor, or the PointTensor if that is what comes in. torch's own layers, such as
    ``torch.nn.ReLU`` or ``torch.nn.BatchNorm1d``, get its features. A parametrized module, and one
    in a wrapper of ``torch.nn.parallel``, gets what it gets without.
    """

    def forward(self, x: Any) -> Any:
        """Run the modules one after the other."""
        return in_sequence(self, x)


def in_sequence(modules: Iterable[nn.Module], x: Any) -> Any:
    """What a :class:`Sequential` of these modules returns."""
    for module in modules:
        if isinstance(x, Features) and _takes_features(module):
            x = x.replace_feats(module(x.feats))
        else:
            x = module(x)
    return x


def _takes_features(module: nn.Module) -> bool:
    """Whether every class that the module is made of, up to ``nn.Module``, is a layer of torch."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return _takes_features(module.module)
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    classes = type(module).__mro__
    layers = classes[: classes.index(nn.Module)]
    return all(layer.__module__.startswith("torch.nn.") for layer in layers)
