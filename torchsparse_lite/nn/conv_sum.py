# SPDX-License-Identifier: MIT
"""Layers over tensors side by side, and sums of layers, without the steps in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard, TypeVar

from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.nn.container import Sequential, in_sequence
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.fuse import ConvReLU
from torchsparse_lite.tensor import SparseTensor, cat

__all__ = ["ReadsSides", "Sides", "over_sides", "reads_sides", "runs_as", "sum_convs"]

_Kind = TypeVar("_Kind", bound=nn.Module)
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


def _is_watched(module: nn.Module) -> bool:
    """Whether calling it calls a hook too (backward hooks know plain tensors only)."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def runs_as(module: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Whether the forward of this kind is all that happens when the module is called.

    It does not where a hook watches it, or where a forward of its own takes the place of that one.
    """
    return (
        type(module).forward is kind.forward
        and "forward" not in vars(module)
        and not _is_watched(module)
    )


def over_sides(module: nn.Module, sides: Sides) -> SparseTensor:
    """What ``Sequential(module)`` makes of ``cat(sides)``.

    Its first layer may read the sides where they lie, unless calling the modules on the way to it
    does more than that, see :func:`runs_as`.
    """
    result: SparseTensor
    if len(sides) > 1 and isinstance(module, ReadsSides) and not _is_watched(module):
        result = module(*sides)
    elif len(sides) > 1 and runs_as(module, Conv3d):
        result = sum_convs((module, sides))
    elif len(sides) > 1 and runs_as(module, ConvReLU):
        result = sum_convs((module.conv, sides), relu=True)
    elif len(sides) > 1 and runs_as(module, Sequential) and len(module):
        first, *others = module
        result = in_sequence(others, over_sides(first, sides))
    else:
        result = in_sequence([module], sides[0] if len(sides) == 1 else cat(sides))
    return result


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
    channels = sum(x.num_channels for x in sides)
    like = sides[0].feats
    return (
        runs_as(conv, Conv3d)
        and conv.groups == 1
        and conv.weight.shape[1] == channels
        and all(t is None or t.dtype == like.dtype for t in (conv.weight, conv.bias))
        and conv.weight.device == like.device
    )
