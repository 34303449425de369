# SPDX-License-Identifier: MIT
"""A call of the operator ``sparse_conv``, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from torchsparse_lite.ops.map_arrays import GemmView, MapArrays, PairLists

__all__ = ["ConvCall"]


class ConvCall(NamedTuple):
    """The arguments of the operator, in the order of its schema.

    Attributes:
        feats: (num_in, in_channels).
        weight: (K, in_channels / groups, out_channels), or that of the adjoint, see ``transposed``.
        bias: (out_channels,) or None.
        residual: (num_out, out_channels), added before the activation, or None.
        pairs: of the kernel map, flat as :class:`MapArrays` has them.
        backward_pairs: of the transposed map; empty if unknown or if the map is symmetric.
        num_out: number of output rows.
        groups: channel groups.
        is_symmetric: the map is its own transpose with taps counted backwards.
        full_tap: a tap that feeds every output row, or -1.
        transposed: the weight is stored with input and output channels exchanged.
        mirrored: tap t uses the weight of tap K - 1 - t.
        relu: apply max(0, .) at the end.
        tap_ptr: (K + 1,) int64 on the CPU, for loops over the taps; None: they read it.
        packed: the weight as tensor cores read it, or None.
    """

    feats: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    pairs: list[Tensor]
    backward_pairs: list[Tensor]
    num_out: int
    groups: int = 1
    is_symmetric: bool = False
    full_tap: int = -1
    transposed: bool = False
    mirrored: bool = False
    relu: bool = False
    tap_ptr: Tensor | None = None
    packed: Tensor | None = None

    @property
    def lists(self) -> PairLists:
        """Of ``pairs``."""
        return PairLists.of(self.pairs)

    @property
    def view(self) -> GemmView | None:
        """Of ``pairs``."""
        return MapArrays.of(self.pairs).view

    @property
    def out_channels(self) -> int:
        """Columns of the result."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[2]

    def adjoint(self, grad: Tensor) -> ConvCall:
        """The call that makes of the gradient of the result that of ``feats``.

        It is over the transposed map, with the weight transposed.
        """
        num_in = self.feats.shape[0]
        pairs, backward_pairs = self.pairs, self.backward_pairs
        if not self.is_symmetric:
            backward_pairs = pairs
            pairs = self.backward_pairs or list(self.lists.transposed(num_in))
        return self._replace(
            feats=grad,
            bias=None,
            residual=None,
            pairs=pairs,
            backward_pairs=backward_pairs,
            num_out=num_in,
            transposed=not self.transposed,
            mirrored=self.mirrored != self.is_symmetric,
            relu=False,
            packed=None,
        )

    def without_tensors(self) -> ConvCall:
        """What autograd may keep beside the tensors, which it keeps itself."""
        tensors = ("feats", "weight", "bias", "residual", "tap_ptr", "packed")
        nothing: dict[str, Any] = dict.fromkeys(tensors)
        return self._replace(pairs=[], backward_pairs=[], **nothing)
