# SPDX-License-Identifier: MIT
"""Seeded clouds and small comparisons; nothing here imports the product."""

from __future__ import annotations

import itertools

import numpy as np
import torch


def box_coords(shape, num, *, batch_size=1, seed=0) -> torch.Tensor:
    """``num`` distinct cells of ``[0, shape)`` for each batch element, rows shuffled; int32."""
    rng = np.random.default_rng(seed)
    cells = np.array(list(itertools.product(*(range(n) for n in shape))))
    parts = []
    for batch in range(batch_size):
        chosen = cells[rng.permutation(len(cells))[:num]]
        parts.append(np.column_stack([np.full(len(chosen), batch), chosen]))
    coords = np.concatenate(parts)
    return torch.from_numpy(coords[rng.permutation(len(coords))].astype(np.int32))


def signed_coords(num, *, low=-5, high=5, batch_size=1, seed=0) -> torch.Tensor:
    """Distinct cells of ``[low, high)`` per axis, negative ones included, shuffled; int32."""
    coords = box_coords((high - low,) * 3, num, batch_size=batch_size, seed=seed)
    return coords + torch.tensor([0, low, low, low], dtype=torch.int32)


def solid_coords(shape, *, batch=0) -> torch.Tensor:
    """Every cell of a box, row-major; int32."""
    cells = list(itertools.product((batch,), *(range(n) for n in shape)))
    return torch.tensor(cells, dtype=torch.int32).reshape(-1, 4)


def surface_coords(extent, *, batch_size=1, seed=0) -> torch.Tensor:
    """A wavy ground sheet with a few walls: about the neighbour density of a LiDAR scan; int32."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(extent), np.arange(extent), indexing="ij"))
    parts = []
    for batch in range(batch_size):
        phase = rng.uniform(0, 6, 2)
        height = np.round(3 * np.sin(x / 9 + phase[0]) + 2 * np.cos(y / 7 + phase[1])).astype(int)
        keep = rng.random(len(x)) < 0.7
        sheet = np.column_stack([x, y, height])[keep]
        wall_x = rng.integers(0, extent, 3)
        walls = [(w, v, h) for w in wall_x for v in range(0, extent, 2) for h in range(6, 14)]
        cells = np.unique(np.concatenate([sheet, np.array(walls)]), axis=0) - extent // 2
        parts.append(np.column_stack([np.full(len(cells), batch), cells]))
    coords = np.concatenate(parts)
    return torch.from_numpy(coords[rng.permutation(len(coords))].astype(np.int32))


def random_values(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    """Standard normal values that do not depend on ``dtype`` before rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def integer_values(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    """Small whole numbers: sums of products are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).to(dtype)


def random_points(num, *, extent=4.0, batch_size=1, seed=0, dtype=torch.float32) -> torch.Tensor:
    """(num, 4) points: batch, x, y, z in metres, uniform in ``[-extent, extent)``."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-extent, extent, (num, 3))
    batch = rng.integers(0, batch_size, num)
    return torch.from_numpy(np.column_stack([batch, xyz])).to(dtype)


def morton_order(coords) -> torch.Tensor:
    """Row permutation into Morton order: batch first, then x, y, z bits interleaved, x highest."""
    sites = np.asarray(coords).astype(np.int64)
    key = np.zeros(len(sites), np.int64)
    for bit in range(18):
        for place, axis in enumerate((3, 2, 1)):
            key |= ((sites[:, axis] + 2**17) >> bit & 1) << (3 * bit + place)
    return torch.from_numpy(np.lexsort((key, sites[:, 0])))


def row_lookup(coords, wanted) -> torch.Tensor:
    """Row of each wanted site in ``coords``; KeyError when a site is not there."""
    row_of = {tuple(site): row for row, site in enumerate(np.asarray(coords).tolist())}
    rows = [row_of[tuple(site)] for site in np.asarray(wanted).reshape(-1, 4).tolist()]
    return torch.tensor(rows, dtype=torch.int64)


def site_set(coords) -> set[tuple[int, ...]]:
    """The sites of a coordinate array as a set."""
    return {tuple(site) for site in np.asarray(coords).reshape(-1, 4).tolist()}


def assert_close(actual, expected, *, tolerance, what="values"):
    """Largest difference at most ``tolerance`` times the largest expected entry."""
    actual = torch.as_tensor(actual).detach().cpu().double()
    expected = torch.as_tensor(expected).detach().cpu().double()
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    if expected.numel() == 0:
        return
    assert torch.isfinite(actual).all(), f"{what}: not finite"
    error = (actual - expected).abs().max().item()
    scale = expected.abs().max().item()
    assert error <= tolerance * max(scale, 1e-3), f"{what}: error {error:.3g} at scale {scale:.3g}"


TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}
