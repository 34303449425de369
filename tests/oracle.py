# SPDX-License-Identifier: MIT
"""Float64 reference for every sparse operator; it imports nothing from the product.

Geometry is plain Python over dictionaries of coordinate tuples, arithmetic is one pair at a time in
numpy float64. It is slow, short, and proven against dense torch in ``test_oracle.py``.

Coordinates are ``(n, 4)`` integer arrays (batch, x, y, z) in cells of their own level and obey
``fine = stride * coarse + dilation * tap - padding`` with taps row-major, z fastest.
A *pair* is ``(tap, fine_row, coarse_row)``.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

Triple = tuple[int, int, int]
Site = tuple[int, int, int, int]
Pair = tuple[int, int, int]


def triple(value: int | tuple[int, int, int]) -> Triple:
    """One number for all three axes, or three numbers."""
    return (value, value, value) if isinstance(value, int) else tuple(value)


def sites_of(coords) -> list[Site]:
    """Rows of a coordinate array or tensor as tuples of Python integers."""
    return [tuple(row) for row in np.asarray(coords).tolist()]


def taps_of(kernel_size) -> list[Triple]:
    """All taps in the order of the weight rows: x slowest, z fastest."""
    return list(itertools.product(*(range(k) for k in triple(kernel_size))))


def same_padding(kernel_size, dilation=1) -> Triple:
    """Padding in front that keeps the sites of a stride-1 convolution in place."""
    return tuple(
        d * (k - 1) // 2 for k, d in zip(triple(kernel_size), triple(dilation), strict=True)
    )


def output_shape(shape, kernel_size, stride=1, dilation=1, padding=0) -> Triple:
    """Dense output size; may be zero or negative where no window fits."""
    parts = zip(
        shape, triple(kernel_size), triple(stride), triple(dilation), triple(padding), strict=True
    )
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in parts)


def fine_of(coarse: Triple, tap: Triple, stride, dilation, padding) -> Triple:
    """The geometry relation itself."""
    parts = zip(coarse, tap, triple(stride), triple(dilation), triple(padding), strict=True)
    return tuple(s * c + d * t - p for c, t, s, d, p in parts)


def coarse_of(fine: Triple, tap: Triple, stride, dilation, padding) -> Triple | None:
    """The coarse cell that sees ``fine`` through ``tap``, or None when it is not a whole cell."""
    coarse = []
    for f, t, s, d, p in zip(
        fine, tap, triple(stride), triple(dilation), triple(padding), strict=True
    ):
        if (f + p - d * t) % s:
            return None
        coarse.append((f + p - d * t) // s)
    return tuple(coarse)


def inside(site: Triple, shape) -> bool:
    """Whether a cell lies in ``[0, shape)``; every cell does when there is no shape."""
    return shape is None or all(0 <= c < n for c, n in zip(site, shape, strict=True))


def coarse_sites(
    coords, kernel_size, stride, dilation=1, padding=0, *, rule="full", spatial_shape=None
) -> list[Site]:
    """Sorted output sites of a strided convolution (``spatial_shape`` is that of the input)."""
    limit = None
    if spatial_shape is not None:
        limit = output_shape(spatial_shape, kernel_size, stride, dilation, padding)
    found = set()
    for batch, *fine in sites_of(coords):
        if rule == "cell":
            cells = [tuple(f // s for f, s in zip(fine, triple(stride), strict=True))]
        else:
            cells = [
                coarse_of(fine, tap, stride, dilation, padding) for tap in taps_of(kernel_size)
            ]
        found.update((batch, *c) for c in cells if c is not None and inside(c, limit))
    return sorted(found)


def fine_sites(coords, kernel_size, stride, dilation=1, padding=0) -> list[Site]:
    """Sorted output sites of a generative transposed convolution."""
    return sorted(
        {
            (batch, *fine_of(coarse, tap, stride, dilation, padding))
            for batch, *coarse in sites_of(coords)
            for tap in taps_of(kernel_size)
        }
    )


def pairs_of(fine, coarse, kernel_size, stride=1, dilation=1, padding=0) -> list[Pair]:
    """All ``(tap, fine_row, coarse_row)`` by tap, then by coarse row."""
    row_of = {site: row for row, site in enumerate(sites_of(fine))}
    pairs = []
    for tap_index, tap in enumerate(taps_of(kernel_size)):
        for coarse_row, (batch, *cell) in enumerate(sites_of(coarse)):
            fine_row = row_of.get((batch, *fine_of(cell, tap, stride, dilation, padding)))
            if fine_row is not None:
                pairs.append((tap_index, fine_row, coarse_row))
    return pairs


def transpose_pairs(pairs: list[Pair]) -> list[Pair]:
    """The same relation read from coarse to fine."""
    return [(tap, coarse_row, fine_row) for tap, fine_row, coarse_row in pairs]


def _group_blocks(weight: np.ndarray, groups: int):
    """Input slice, output slice and weight block of each channel group."""
    c_in, c_out = weight.shape[1], weight.shape[2] // groups
    for g in range(groups):
        out = slice(g * c_out, (g + 1) * c_out)
        yield slice(g * c_in, (g + 1) * c_in), out, weight[:, :, out]


def conv(feats, weight, pairs: list[Pair], num_out: int, *, bias=None, groups=1) -> np.ndarray:
    """``out[o] = bias + sum of feats[i] @ weight[tap]``; weight is (K, C_in / groups, C_out)."""
    feats, weight = np.asarray(feats, np.float64), np.asarray(weight, np.float64)
    out = np.zeros((num_out, weight.shape[2]))
    for channels_in, channels_out, block in _group_blocks(weight, groups):
        for tap, i, o in pairs:
            out[o, channels_out] += feats[i, channels_in] @ block[tap]
    return out if bias is None else out + np.asarray(bias, np.float64)


def conv_grads(feats, weight, pairs: list[Pair], grad_out, *, groups=1):
    """Gradients of ``conv`` for feats, weight and bias, written out by hand."""
    feats, weight = np.asarray(feats, np.float64), np.asarray(weight, np.float64)
    grad_out = np.asarray(grad_out, np.float64)
    grad_feats, grad_weight = np.zeros_like(feats), np.zeros_like(weight)
    for channels_in, channels_out, block in _group_blocks(weight, groups):
        for tap, i, o in pairs:
            grad_feats[i, channels_in] += block[tap] @ grad_out[o, channels_out]
            grad_weight[tap, :, channels_out] += np.outer(
                feats[i, channels_in], grad_out[o, channels_out]
            )
    return grad_feats, grad_weight, grad_out.sum(axis=0)


def windows_of(pairs: list[Pair], num_out: int) -> list[list[int]]:
    """Input rows of each output row, in tap order."""
    rows: list[list[int]] = [[] for _ in range(num_out)]
    for _, i, o in sorted(pairs):
        rows[o].append(i)
    return rows


def pool(feats, pairs: list[Pair], num_out: int, mode: str) -> np.ndarray:
    """Max, sum or average over the active inputs of each window; empty windows are zero."""
    feats = np.asarray(feats, np.float64)
    out = np.zeros((num_out, feats.shape[1]))
    reduce = {"max": np.max, "sum": np.sum, "avg": np.mean}[mode]
    for o, rows in enumerate(windows_of(pairs, num_out)):
        if rows:
            out[o] = reduce(feats[rows], axis=0)
    return out


def pool_grad(feats, pairs: list[Pair], grad_out, mode: str) -> np.ndarray:
    """Gradient of ``pool`` for feats; feats must have no ties under ``max``."""
    feats, grad_out = np.asarray(feats, np.float64), np.asarray(grad_out, np.float64)
    grad = np.zeros_like(feats)
    for o, rows in enumerate(windows_of(pairs, len(grad_out))):
        for channel in range(feats.shape[1]) if rows else ():
            if mode == "max":
                winner = max(rows, key=lambda row, c=channel: feats[row, c])
                grad[winner, channel] += grad_out[o, channel]
            else:
                grad[rows, channel] += grad_out[o, channel] / (1 if mode == "sum" else len(rows))
    return grad


def _columns(coords) -> tuple[torch.Tensor, ...]:
    """Batch, x, y, z as index tensors; an empty list of sites is fine."""
    return torch.as_tensor(np.asarray(coords).reshape(-1, 4)).long().unbind(1)


def scatter_dense(coords, feats: torch.Tensor, shape, batch_size: int) -> torch.Tensor:
    """(n, C) rows to a zero-filled (B, C, X, Y, Z) grid; differentiable in ``feats``."""
    b, x, y, z = _columns(coords)
    grid = feats.new_zeros((batch_size, *shape, feats.shape[1]))
    return grid.index_put((b, x, y, z), feats).permute(0, 4, 1, 2, 3)


def gather_dense(dense: torch.Tensor, coords) -> torch.Tensor:
    """The (n, C) rows of a (B, C, X, Y, Z) grid at ``coords``; differentiable."""
    b, x, y, z = _columns(coords)
    return dense.permute(0, 2, 3, 4, 1)[b, x, y, z]


def dense_weight(weight: torch.Tensor, kernel_size) -> torch.Tensor:
    """(K, C_in / groups, C_out) to the weight of ``torch.nn.functional.conv3d``."""
    return weight.reshape(*triple(kernel_size), *weight.shape[1:]).permute(4, 3, 0, 1, 2)


def dense_transposed_weight(weight: torch.Tensor, kernel_size, groups=1) -> torch.Tensor:
    """(K, C_in / groups, C_out) to the weight of ``torch.nn.functional.conv_transpose3d``."""
    c_in, c_out = weight.shape[1], weight.shape[2]
    blocks = weight.reshape(*triple(kernel_size), c_in, groups, c_out // groups)
    return blocks.permute(4, 3, 5, 0, 1, 2).reshape(
        groups * c_in, c_out // groups, *triple(kernel_size)
    )


def quantize(xyz, voxel_size, *, origin=(0, 0, 0), dtype=np.float32) -> np.ndarray:
    """``floor((xyz - origin) / voxel_size)`` with every operand in ``dtype``."""
    size = np.broadcast_to(np.asarray(voxel_size, np.float64), (3,)).astype(dtype)
    shifted = np.asarray(xyz).astype(dtype) - np.asarray(origin, np.float64).astype(dtype)
    return np.floor(shifted / size).astype(np.int64)


def voxelize(points, feats, voxel_size, *, reduce="mean", origin=(0, 0, 0), dtype=np.float32):
    """Voxels as ``{site: (feature row, point indices in file order)}``.

    ``points`` is (n, 4): batch, x, y, z.
    """
    points, feats = np.asarray(points), np.asarray(feats, np.float64)
    cells = quantize(points[:, 1:], voxel_size, origin=origin, dtype=dtype)
    members: dict[Site, list[int]] = {}
    for row, (batch, cell) in enumerate(zip(points[:, 0].astype(int), cells, strict=True)):
        members.setdefault((int(batch), *cell.tolist()), []).append(row)
    take = {
        "mean": lambda rows: feats[rows].mean(axis=0),
        "sum": lambda rows: feats[rows].sum(axis=0),
        "max": lambda rows: feats[rows].max(axis=0),
        "first": lambda rows: feats[rows[0]],
    }[reduce]
    return {site: (take(rows), rows) for site, rows in members.items()}


def trilinear(
    coords, points, voxel_size, *, stride=1, origin=(0, 0, 0), anchor="corner", renormalize=True
):
    """Interpolation matrix (n_points, n_voxels) in float64; ``points`` is (n, 4)."""
    row_of = {site: row for row, site in enumerate(sites_of(coords))}
    points = np.asarray(points, np.float64)
    scale = np.broadcast_to(np.asarray(voxel_size, np.float64), (3,)) * np.array(triple(stride))
    cells = (points[:, 1:] - np.asarray(origin, np.float64)) / scale
    cells -= 0.5 if anchor == "center" else 0.0
    matrix = np.zeros((len(points), len(row_of)))
    for n, (batch, cell) in enumerate(zip(points[:, 0].astype(int), cells, strict=True)):
        low = np.floor(cell).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            row = row_of.get((int(batch), *(low + corner).tolist()))
            if row is not None:
                part = np.where(corner, cell - low, 1 - (cell - low))
                matrix[n, row] += part.prod()
        if renormalize and matrix[n].sum() > 0:
            matrix[n] /= matrix[n].sum()
    return matrix
