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

import torch
from torch import Tensor

from torchsparse_lite.errors import check_dtype, check_shape, refuse
from torchsparse_lite.ops import gemm
from torchsparse_lite.ops.packed_weight import PackedWeight, kept_weight
from torchsparse_lite.ops.registry import define_op
from torchsparse_lite.ops.sparse_conv import LISTS, Pairs, sparse_conv

__all__ = ["ConvTerm", "one_by_one", "sparse_conv_sum", "sums_in_one_pass"]


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
    return gemm.fits(feats[0], 1) and not torch.is_autocast_enabled(feats[0].device.type)


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
    kept = [kept_weight(term.packed, term.weight, term.feats) for term in terms]
    result: Tensor = _sparse_conv_sum(
        [side for term in terms for side in term.feats],
        [len(term.feats) for term in terms],
        [term.weight for term in terms],
        [term.bias for term in terms],
        residual,
        [array for term in terms for array in term.pairs.forward],
        [term.pairs.full_tap for term in terms],
        [term.pairs.is_identity for term in terms],
        [term.pairs.host_taps(term.feats[0], 1) for term in terms],
        [part for parts in kept for part in parts] if all(kept) else [],
        terms[0].pairs.num_out,
        relu,
    )
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


def _terms(
    feats: list[Tensor],
    sides: list[int],
    weights: list[Tensor],
    biases: list[Tensor | None],
    pairs: list[Tensor],
    full_taps: list[int],
    is_identity: list[bool],
    tap_ptrs: list[Tensor | None],
    num_out: int,
) -> list[ConvTerm]:
    """The terms again, of what an operator can be given."""
    arrays = len(pairs) // len(weights)
    ends = list(pairwise(accumulate(sides, initial=0)))
    return [
        ConvTerm(
            tuple(feats[slice(*ends[i])]),
            weights[i],
            Pairs(
                tuple(pairs[i * arrays : (i + 1) * arrays]),
                (),
                num_out,
                full_tap=full_taps[i],
                taps=tap_ptrs[i],
                is_identity=is_identity[i],
            ),
            biases[i],
        )
        for i in range(len(weights))
    ]


def one_by_one(
    feats: list[Tensor],
    sides: list[int],
    weights: list[Tensor],
    biases: list[Tensor | None],
    residual: Tensor | None,
    pairs: list[Tensor],
    full_taps: list[int],
    is_identity: list[bool],
    tap_ptrs: list[Tensor | None],
    packed: list[Tensor],
    num_out: int,
    relu: bool,
) -> Tensor:
    """The operator ``sparse_conv_sum`` by one convolution after the other; packs nothing."""
    terms = _terms(feats, sides, weights, biases, pairs, full_taps, is_identity, tap_ptrs, num_out)
    return _composed(terms, residual, relu=relu)


def _sum_cuda(
    feats: list[Tensor],
    sides: list[int],
    weights: list[Tensor],
    biases: list[Tensor | None],
    residual: Tensor | None,
    pairs: list[Tensor],
    full_taps: list[int],
    is_identity: list[bool],
    tap_ptrs: list[Tensor | None],
    packed: list[Tensor],
    num_out: int,
    relu: bool,
) -> Tensor:
    terms = _terms(feats, sides, weights, biases, pairs, full_taps, is_identity, tap_ptrs, num_out)
    has_views = all(len(term.pairs.forward) > LISTS for term in terms)
    if not has_views or len(feats) > gemm.MAX_PARTS or not gemm.fits(feats[0], 1):
        return _composed(terms, residual, relu=relu)
    for term in terms:
        _check_operands(term, weights[0])
    packed = packed or [
        part for term in terms for part in gemm.pack_parts(term.weight, term.widths)
    ]
    tables = [_table(term.pairs) for term in terms for _ in term.feats]
    leading = next((term for term in terms if not term.pairs.is_identity), terms[0])
    return gemm.implicit_gemm_sum(
        [gemm.Part(*part) for part in zip(feats, packed, tables, strict=True)],
        leading.pairs.forward[-1],
        out_channels=weights[0].shape[2],
        biases=[bias for bias in biases if bias is not None],
        residual=residual,
        relu=relu,
    )


def _table(pairs: Pairs) -> gemm.Table | None:
    """Mask, ptr and rows; the identity needs none."""
    mask, ptr, rows, _ = pairs.forward[LISTS:]
    return None if pairs.is_identity else (mask, ptr, rows)


def _check_operands(term: ConvTerm, weight: Tensor) -> None:
    """What packed weights do not tell any more."""
    volume = term.pairs.forward[LISTS - 1].shape[1]
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
    cuda=_sum_cuda,
    fake=lambda feats, sides, weights, *rest: feats[0].new_empty((rest[-2], weights[0].shape[2])),
    autocast=True,
)
