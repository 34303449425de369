# SPDX-License-Identifier: MIT
"""Layers over tensors side by side, and sums of layers, without the steps in between."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.fuse import ConvReLU
from torchsparse_lite.tensor import SparseTensor, cat

__all__ = ["ReadsSides", "Sides", "over_sides", "reads_sides", "sum_convs"]

Sides = tuple[SparseTensor, ...]
"""Tensors at the same sites that stand for their concatenation."""


class ReadsSides(nn.Module):
    """A module whose input may be given as tensors side by side, an argument each."""


def reads_sides(sides: Sides) -> bool:
    """Whether convolutions read these tensors where they lie, so that none need concatenate them.

    They do on tensor cores, in inference.
    """
    first, *others = sides
    is_one_place = all(x.level is first.level and x.manager is first.manager for x in others)
    return is_one_place and ops.sums_in_one_pass(*(x.feats for x in sides))


def over_sides(module: nn.Module, sides: Sides) -> SparseTensor:
    """``module(cat(sides))``, where its first layer may read the sides where they lie."""
    if len(sides) == 1:
        return module(sides[0])  # type: ignore[no-any-return]
    if isinstance(module, ReadsSides):
        return module(*sides)  # type: ignore[no-any-return]
    if isinstance(module, Conv3d):
        return sum_convs((module, sides))
    if isinstance(module, ConvReLU):
        return sum_convs((module.conv, sides), relu=True)
    if isinstance(module, nn.Sequential) and len(module):
        return module[1:](over_sides(module[0], sides))  # type: ignore[no-any-return]
    return module(cat(sides))  # type: ignore[no-any-return]


def sum_convs(*terms: tuple[Conv3d, Sides], relu: bool = False) -> SparseTensor:
    """``relu(sum of conv(cat(sides)))`` for convolutions onto the same sites.

    In inference on tensor cores it is one pass, unless a hook watches one of the layers. Everywhere
    else they are called one after the other, and each is the residual of the one before.

    Args:
        *terms: convolutions and what they read.
        relu: apply max(0, .) at the end.
    """
    if _is_one_pass(terms):
        links = [conv.window.link("conv3d", sides[0], None) for conv, sides in terms]
        if all(link.level is links[0].level for link in links):
            feats = ops.sparse_conv_sum(
                [
                    ops.ConvTerm(
                        tuple(x.feats for x in sides),
                        conv.weight,
                        link.pairs,
                        conv.bias,
                        conv.packed,
                    )
                    for (conv, sides), link in zip(terms, links, strict=True)
                ],
                relu=relu,
            )
            return links[0].outputs(feats)
    (conv, sides), *others = terms
    x = sides[0] if len(sides) == 1 else cat(sides)
    result: SparseTensor = conv(x, residual=sum_convs(*others) if others else None, relu=relu)
    return result


def _is_one_pass(terms: Sequence[tuple[Conv3d, Sides]]) -> bool:
    """What does not fit together is left to the layers, which say so."""
    tensors = [x for _, sides in terms for x in sides]
    if len(tensors) == 1 or not ops.sums_in_one_pass(*(x.feats for x in tensors)):
        return False
    return all(reads_sides(sides) and _is_plain(conv, sides) for conv, sides in terms)


def _is_plain(conv: Conv3d, sides: Sides) -> bool:
    is_watched = conv._forward_hooks or conv._forward_pre_hooks
    channels = sum(x.num_channels for x in sides)
    like = sides[0].feats
    return (
        not is_watched
        and conv.groups == 1
        and conv.weight.shape[1] == channels
        and all(t is None or t.dtype == like.dtype for t in (conv.weight, conv.bias))
        and conv.weight.device == like.device
    )
