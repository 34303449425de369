# SPDX-License-Identifier: MIT
"""Sites that a convolution writes, see ``csrc/core/conv_geometry.h``.

Coordinates are int32 (N, 4): batch, x, y, z; batch in 0..1023, axes in [-131072, 131071].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op, opaque
from torchsparse_lite.ops.room import DEAD, Room, fill_up, settled
from torchsparse_lite.ops.scratch import scratch_on

__all__ = ["coarse_sites", "extent", "fine_sites"]

Triples = tuple[tuple[int, int, int], ...]


def _geometry(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
) -> tuple[tuple[int, ...], ...]:
    return tuple(kernel_size), tuple(stride), tuple(dilation), tuple(padding)


def _sites_native(
    coords: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    kind: str,
    shape: Sequence[int] | None,
    capacity: int = -1,
    overflow: Tensor | None = None,
) -> Tensor:
    if overflow is not None and not coords.is_cuda:
        window = kernel_size, stride, dilation, padding, kind, shape
        (sites,) = settled(
            lambda rows: (_sites_native(rows, *window),), 0, coords, capacity, overflow
        )
        return fill_up(sites, capacity, DEAD)
    geometry = _geometry(kernel_size, stride, dilation, padding)
    limit = None if shape is None else tuple(shape)
    made: list[Tensor] = []

    def allocate(count: int) -> tuple[Tensor, ...]:
        made.append(coords.new_empty((count, 4)))
        return tuple(made)

    how = allocate, scratch_on(coords), torch.get_num_threads(), capacity, overflow
    if kind == "fine":
        C.fine_sites(coords.contiguous(), geometry, limit, *how)
    else:
        C.coarse_sites(coords.contiguous(), geometry, kind == "cell", limit, *how)
    return made[0]


_sites = define_op(
    "sites(Tensor coords, int[3] kernel_size, int[3] stride, int[3] dilation, int[3] padding, "
    "str kind, int[]? shape, SymInt capacity=-1, Tensor(a!)? overflow=None) -> Tensor",
    cpu=_sites_native,
    cuda=_sites_native if has_cuda() else None,
    fake=lambda coords, kernel_size, stride, dilation, padding, kind, shape, capacity=-1, _=None: (
        coords.new_empty((data_dependent_size() if capacity < 0 else capacity, 4))
    ),
)


def coarse_sites(
    coords: Tensor,
    geometry: Triples,
    rule: str,
    shape: Sequence[int] | None,
    *,
    room: Room | None = None,
) -> Tensor:
    """Output sites of a strided convolution.

    Args:
        coords: (N, 4) int32 input sites.
        geometry: kernel_size, stride, dilation, padding.
        rule: "full" (every site whose window holds an input) or "cell" (one per occupied cell).
        shape: keep only sites in [0, shape), or None.
        room: for sites.

    Returns:
        (M, 4) int32, unique, in Morton order.

    Raises:
        ValueError: an output lies outside the representable range, or, on the CPU, an input.
    """
    result: Tensor = _sites(coords, *geometry, rule, shape, *(room or ()))
    return result


def fine_sites(
    coords: Tensor, geometry: Triples, shape: Sequence[int] | None, *, room: Room | None = None
) -> Tensor:
    """Output sites of a generative transposed convolution: all that the kernel reaches.

    Args and errors as for :func:`coarse_sites`.
    """
    result: Tensor = _sites(coords, *geometry, "fine", shape, *(room or ()))
    return result


@opaque
def extent(
    geometry: Triples, shape: tuple[int, int, int], *, transposed: bool
) -> tuple[int, int, int]:
    """Extent of the output grid of a convolution over a grid of extent ``shape``.

    Args:
        geometry: kernel_size, stride, dilation, padding.
        shape: X, Y, Z in sites.
        transposed: from coarse to fine.
    """
    x, y, z = C.extent(geometry, shape, transposed)
    return x, y, z
