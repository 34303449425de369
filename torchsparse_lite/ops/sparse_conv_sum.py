# SPDX-License-Identifier: MIT
"""Sums of sparse convolutions onto the same rows, each over features that may lie side by side.

``relu(conv(a) + conv(b))`` is the end of a residual block, ``conv(cat([a, b]))`` the beginning of a
decoder's. On tensor cores such a sum is one pass (``csrc/kernels/gemm_tile.h``), which writes
neither the concatenation nor a convolution of its own. Everywhere else, and where a gradient is
wanted, it is what it says: concatenations, and convolutions of which each is the residual of the
one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from torchsparse_lite.errors import check_dtype, check_shape, refuse
from torchsparse_lite.ops import dataflow, gemm
from torchsparse_lite.ops.dataflow import Dataflow
from torchsparse_lite.ops.map_arrays import GemmView, MapArrays, Pairs
from torchsparse_lite.ops.packed_weight import PackedWeight, kept_weight
from torchsparse_lite.ops.registry import define_op
from torchsparse_lite.ops.sparse_conv import sparse_conv

__all__ = ["ConvTerm", "SumCall", "one_by_one", "sparse_conv_sum", "sums_in_one_pass"]


@dataclass(frozen=True, eq=False)
class ConvTerm:
    """A convolution of a sum.

    Attributes:
        feats: (num_in, channels) each: read as if their channels were concatenated.
        weight: (kernel_volume, in_channels, out_channels), dtype of ``feats``.
        pairs: the kernel map.
        bias: (out_channels,) or None.
        packed: what the layer keeps of its weight, or None.
    """

    feats: tuple[Tensor, ...]
    weight: Tensor
    pairs: Pairs
    bias: Tensor | None = None
    packed: PackedWeight | None = None

    @property
    def widths(self) -> list[int]:
        """Channels of each of ``feats``."""
        return [side.shape[1] for side in self.feats]


def sums_in_one_pass(*feats: Tensor) -> bool:
    """Whether :func:`sparse_conv_sum` over these features is one pass that concatenates nothing.

    It is one on tensor cores, in inference.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    if any(side.dtype != feats[0].dtype for side in feats):
        return False
    if torch.is_autocast_enabled(feats[0].device.type):
        return False
    return dataflow.conv_dataflow(feats[0]) is Dataflow.TENSOR_CORES


def sparse_conv_sum(
    terms: Sequence[ConvTerm], *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Sum convolutions: ``out = sum over terms of (bias + conv(cat(feats)))``.

    Args:
        terms: at least one; all with the same output rows and channels.
        residual: (num_out, out_channels), added before the activation, or None.
        relu: apply max(0, .) at the end.

    Returns:
        (num_out, out_channels), dtype of the features. Bitwise equal for any number of threads.

    Differentiable in features, weights, biases and residual, twice.
    """
    if not terms or any(not term.feats for term in terms):
        refuse("sparse_conv_sum: terms", "at least one with features", terms, "Add some.")
    if _wants_gradient(terms, residual):
        return _composed(terms, residual, relu=relu)
    result: Tensor = _sparse_conv_sum(*SumCall.of(terms, residual, relu=relu))
    return result


def _wants_gradient(terms: Sequence[ConvTerm], residual: Tensor | None) -> bool:
    operands = [t for term in terms for t in (*term.feats, term.weight, term.bias)]
    return torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*operands, residual)
    )


def _composed(terms: Sequence[ConvTerm], residual: Tensor | None, *, relu: bool) -> Tensor:
    first, *others = terms
    if others:
        residual = _composed(others, residual, relu=False)
    feats = first.feats[0] if len(first.feats) == 1 else torch.cat(first.feats, dim=1)
    return sparse_conv(
        feats,
        first.weight,
        first.pairs,
        bias=first.bias,
        residual=residual,
        relu=relu,
        packed=first.packed,
    )


class SumCall(NamedTuple):
    """The arguments of the operator, in the order of its schema.

    Attributes:
        feats: of all terms, one after the other.
        sides: how many of them each term has.
        weights: of each term.
        biases: of each term, or None.
        residual: added before the activation, or None.
        pairs: the flat arrays of all maps, one after the other; as many of each.
        full_taps: see ``Pairs``.
        is_identity: see ``Pairs``.
        tap_ptrs: see ``ConvCall``.
        packed: the weight of each of ``feats`` as tensor cores read it; empty if not of all.
        num_out: number of output rows.
        relu: apply max(0, .) at the end.
    """

    feats: list[Tensor]
    sides: list[int]
    weights: list[Tensor]
    biases: list[Tensor | None]
    residual: Tensor | None
    pairs: list[Tensor]
    full_taps: list[int]
    is_identity: list[bool]
    tap_ptrs: list[Tensor | None]
    packed: list[Tensor]
    num_out: int
    relu: bool

    @classmethod
    def of(cls, terms: Sequence[ConvTerm], residual: Tensor | None, *, relu: bool) -> SumCall:
        """The sum of these terms."""
        kept = [kept_weight(term.packed, term.weight, term.feats) for term in terms]
        return cls(
            feats=[side for term in terms for side in term.feats],
            sides=[len(term.feats) for term in terms],
            weights=[term.weight for term in terms],
            biases=[term.bias for term in terms],
            residual=residual,
            pairs=[array for term in terms for array in term.pairs.forward.flat()],
            full_taps=[term.pairs.full_tap for term in terms],
            is_identity=[term.pairs.is_identity for term in terms],
            tap_ptrs=[dataflow.host_taps(term.pairs, term.feats[0], term.weight) for term in terms],
            packed=[part for parts in kept for part in parts] if all(kept) else [],
            num_out=terms[0].pairs.num_out,
            relu=relu,
        )

    @property
    def terms(self) -> list[ConvTerm]:
        """The terms again."""
        arrays = len(self.pairs) // len(self.weights)
        ends = list(pairwise(accumulate(self.sides, initial=0)))
        return [
            ConvTerm(
                tuple(self.feats[slice(*ends[i])]),
                self.weights[i],
                Pairs(
                    MapArrays.of(self.pairs[i * arrays : (i + 1) * arrays]),
                    None,
                    self.num_out,
                    full_tap=self.full_taps[i],
                    taps=self.tap_ptrs[i],
                    is_identity=self.is_identity[i],
                ),
                self.biases[i],
            )
            for i in range(len(self.weights))
        ]


def one_by_one(call: SumCall) -> Tensor:
    """The operator ``sparse_conv_sum`` by one convolution after the other; packs nothing."""
    return _composed(call.terms, call.residual, relu=call.relu)


def _in_one_pass(call: SumCall) -> Tensor:
    terms = call.terms
    views = [view for view in map(_view_on_tensor_cores, terms) if view is not None]
    if len(views) < len(terms) or len(call.feats) > gemm.MAX_PARTS:
        return _composed(terms, call.residual, relu=call.relu)
    for term in terms:
        _check_operands(term, call.weights[0])
    packed = call.packed or [
        part for term in terms for part in gemm.pack_parts(term.weight, term.widths)
    ]
    tables = [  # the identity needs none
        None if term.pairs.is_identity else view.table
        for term, view in zip(terms, views, strict=True)
        for _ in term.feats
    ]
    leading = next((i for i, term in enumerate(terms) if not term.pairs.is_identity), 0)
    return gemm.implicit_gemm_sum(
        [gemm.Part(*part) for part in zip(call.feats, packed, tables, strict=True)],
        views[leading].order,
        out_channels=call.weights[0].shape[2],
        biases=[bias for bias in call.biases if bias is not None],
        residual=call.residual,
        relu=call.relu,
    )


def _view_on_tensor_cores(term: ConvTerm) -> GemmView | None:
    view = term.pairs.forward.view
    flow = dataflow.conv_dataflow(term.feats[0], term.weight, has_view=view is not None)
    return view if flow is Dataflow.TENSOR_CORES else None


def _check_operands(term: ConvTerm, weight: Tensor) -> None:
    """What packed weights do not tell any more."""
    volume = term.pairs.forward.lists.tile_ptr.shape[1]
    shape = (volume, sum(term.widths), weight.shape[2])
    where = "sparse_conv_sum: weight"
    check_shape(where, term.weight, shape, "Match it to the kernel map and to the features.")
    for side in term.feats:
        check_dtype(where, term.weight, (side.dtype,), "Convert it with .to().")


_sparse_conv_sum = define_op(
    "sparse_conv_sum(Tensor[] feats, int[] sides, Tensor[] weights, Tensor?[] biases, "
    "Tensor? residual, Tensor[] pairs, int[] full_taps, bool[] is_identity, Tensor?[] tap_ptrs, "
    "Tensor[] packed, SymInt num_out, bool relu) -> Tensor",
    cpu=one_by_one,
    cuda=_in_one_pass,
    fake=lambda call: call.feats[0].new_empty((call.num_out, call.weights[0].shape[2])),
    autocast=True,
    record=SumCall._make,
)
