# SPDX-License-Identifier: MIT
"""Operators with room: the live part as without it, the rest dead; what does not fit is noticed.

The CPU runs say what room means; on a GPU the kernels themselves are held to the same.
"""

from __future__ import annotations

import clouds
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.ops.room import DEAD, Room, live

CUBE = tsl.ConvGeometry.same(3).triples
HALVING = tsl.ConvGeometry((2, 2, 2), (2, 2, 2)).triples
STRIDED = tsl.ConvGeometry((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)).triples

CLOUDS = {
    "empty": torch.empty(0, 4, dtype=torch.int32),
    "one": torch.tensor([[3, -7, 0, 12]], dtype=torch.int32),
    "signed": clouds.signed_coords(300, low=-9, high=9, batch_size=3),
    "surface": clouds.surface_coords(60, batch_size=2),
}
EXTRA = 37


def with_dead(coords, extra=EXTRA):
    return torch.cat([coords, coords.new_full((extra, 4), DEAD)])


def room(capacity, device):
    return Room(capacity, torch.zeros(1, dtype=torch.int32, device=device))


def ordered(name, device):
    return CLOUDS[name][clouds.morton_order(CLOUDS[name])].to(device)


def twice(name, device):
    return torch.cat([CLOUDS[name], CLOUDS[name].flip(0)]).to(device)


SITES = {
    "coarse": lambda coords, **how: ops.coarse_sites(coords, STRIDED, "full", None, **how),
    "cell": lambda coords, **how: ops.coarse_sites(coords, HALVING, "cell", None, **how),
    "clipped": lambda coords, **how: ops.coarse_sites(coords, STRIDED, "full", (4, 5, 6), **how),
    "fine": lambda coords, **how: ops.fine_sites(coords, STRIDED, None, **how),
}


@pytest.mark.parametrize("spare", [0, 50])
@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("name", CLOUDS)
def test_sites_are_the_same_and_dead_ones_follow(name, kind, spare, device):
    coords = CLOUDS[name].to(device)
    wanted = SITES[kind](coords)
    space = room(len(wanted) + spare, device)
    found = SITES[kind](with_dead(coords), room=space)
    assert found.equal(with_dead(wanted, spare))
    assert not space.overflow.item()


@pytest.mark.parametrize("spare", [0, 50])
@pytest.mark.parametrize("name", CLOUDS)
def test_groups_are_the_same_and_dead_ones_are_empty(name, spare, device):
    coords = twice(name, device)
    voxels, rows, order, ptr = ops.unique_coords(coords)
    space = room(len(voxels) + spare, device)
    found = ops.unique_coords(with_dead(coords), room=space)
    assert found[0].equal(with_dead(voxels, spare))
    assert not space.overflow.item()
    assert found[1][: len(coords)].equal(rows)
    assert found[1][len(coords) :].eq(0).all()
    assert found[2][: len(coords)].equal(order)
    assert found[3].equal(torch.cat([ptr, ptr[-1:].expand(spare)]))


@pytest.mark.parametrize("spare", [0, 50])
@pytest.mark.parametrize("name", CLOUDS)
def test_cells_are_the_same_and_dead_ones_are_empty(name, spare, device):
    coords = ordered(name, device)
    coarse, parent, child_ptr, child_mask = ops.coarsen(coords)
    space = room(len(coarse) + spare, device)
    found = ops.coarsen(with_dead(coords), room=space)
    assert found[0].equal(with_dead(coarse, spare))
    assert not space.overflow.item()
    assert found[1][: len(coords)].equal(parent)
    assert found[2].equal(torch.cat([child_ptr, child_ptr[-1:].expand(spare)]))
    assert found[3].equal(torch.cat([child_mask, child_mask.new_zeros(spare)]))


def assert_table(found, wanted, spare):
    """The wanted table, and ``spare`` rows without neighbours behind it."""
    mask, ptr, rows = found
    pairs = int(ptr[-1])
    assert mask.equal(torch.cat([wanted[0], wanted[0].new_zeros(spare, mask.shape[1])]))
    assert ptr.equal(torch.cat([wanted[1], wanted[1][-1:].expand(spare)]))
    assert rows[:pairs].equal(wanted[2])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", CLOUDS)
def test_neighbors_are_the_same_and_dead_rows_have_none(name, inverse, device):
    fine = CLOUDS[name].to(device)
    coarse = ops.coarse_sites(fine, STRIDED, "full", None)
    sites, others = (fine, coarse) if inverse else (coarse, fine)
    wanted = ops.neighbors_search(sites, ops.hash_build(others), STRIDED, inverse=inverse)
    space = room(len(wanted[2]) + 11, device)
    table = ops.hash_build(live(with_dead(others)))
    found = ops.neighbors_search(with_dead(sites), table, STRIDED, inverse=inverse, room=space)
    assert_table(found, wanted, EXTRA)
    assert not space.overflow.item()


@pytest.mark.parametrize("name", CLOUDS)
def test_descent_is_the_same_and_dead_rows_have_none(name, device):
    coords = ordered(name, device)
    coarse, _, child_ptr, child_mask = ops.coarsen(coords)
    cells = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE)
    wanted = ops.neighbors_descend(cells, child_ptr, child_mask, num_children=len(coords))

    space = room(len(coarse) + 20, device)
    coarse, _, child_ptr, child_mask = ops.coarsen(with_dead(coords), room=space)
    space = Room(len(cells[2]) + 3, space.overflow)
    cells = ops.neighbors_search(coarse, ops.hash_build(live(coarse)), CUBE, room=space)
    space = Room(len(wanted[2]) + 5, space.overflow)
    found = ops.neighbors_descend(
        cells, child_ptr, child_mask, num_children=len(coords) + EXTRA, room=space
    )
    assert_table(found, wanted, EXTRA)
    assert not space.overflow.item()


@pytest.mark.parametrize("name", CLOUDS)
def test_pairs_of_dead_rows_are_none(name, device):
    coords = with_dead(CLOUDS[name]).to(device)
    table = ops.hash_build(live(coords))
    neighbors = ops.neighbors_search(coords, table, CUBE, room=room(27 * len(coords), device))
    lists = ops.pairs_by_tap(neighbors, 27)
    wanted = ops.pairs_by_tap(
        ops.neighbors_search(live_rows(coords), ops.hash_build(live_rows(coords)), CUBE), 27
    )
    pairs = int(lists[2][-1])
    assert lists[2].equal(wanted[2])
    assert lists[0][:pairs].equal(wanted[0])
    assert lists[1][:pairs].equal(wanted[1])
    swapped = ops.transpose_pairs(*lists, len(coords))
    plain = ops.transpose_pairs(*wanted, len(live_rows(coords)))
    assert all(a[:pairs].equal(b) for a, b in zip(swapped, plain, strict=True))


def live_rows(coords):
    return coords[coords[:, 0] != DEAD]


def test_points_that_are_dead_stay_so(device):
    xyz = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)).to(device) * 5
    batch = torch.zeros(100, dtype=torch.int32, device=device)
    wanted = ops.quantize(xyz, batch, [0.1] * 3, [0.0] * 3)
    batch[90:] = DEAD
    flag = room(0, device).overflow
    found = ops.quantize(xyz, batch, [0.1] * 3, [0.0] * 3, overflow=flag)
    assert found.equal(with_dead(wanted[:90], 10))
    assert not flag.item()


def test_a_point_that_would_be_refused_sets_the_flag(device):
    xyz = torch.rand(10, 3).to(device)
    xyz[3, 1] = torch.nan
    flag = room(0, device).overflow
    ops.quantize(xyz, torch.zeros(10, device=device).int(), [0.1] * 3, [0.0] * 3, overflow=flag)
    assert flag.item()


SIGNED = "signed"
TOO_SMALL = {
    "unique": lambda coords, space: ops.unique_coords(coords, room=space),
    "coarsen": lambda coords, space: ops.coarsen(ordered(SIGNED, coords.device), room=space),
    "sites": lambda coords, space: ops.coarse_sites(coords, STRIDED, "full", None, room=space),
    "search": lambda coords, space: ops.neighbors_search(
        coords, ops.hash_build(coords), CUBE, room=space
    ),
    "descend": lambda coords, space: descend(ordered(SIGNED, coords.device), space),
}


def descend(coords, space):
    coarse, _, child_ptr, child_mask = ops.coarsen(coords)
    cells = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE)
    return ops.neighbors_descend(cells, child_ptr, child_mask, num_children=len(coords), room=space)


@pytest.mark.parametrize("kind", TOO_SMALL)
def test_one_too_many_sets_the_flag_and_what_is_returned_can_be_used(kind, device):
    coords = CLOUDS[SIGNED].to(device)
    made = TOO_SMALL[kind](coords, room(10**6, device))
    made = (made,) if isinstance(made, torch.Tensor) else made
    is_table = len(made) == 3
    count = int(made[1][-1]) if is_table else len(live_rows(made[0]))
    space = room(count - 1, device)
    small = TOO_SMALL[kind](coords, space)
    assert space.overflow.item() == 1
    if is_table:
        assert not small[0].any()
        assert not small[1].any()
        _, _, tap_ptr = ops.pairs_by_tap(small, 27)
        assert not tap_ptr.any()
    exact = room(count, device)
    TOO_SMALL[kind](coords, exact)
    assert exact.overflow.item() == 0


def test_rows_that_belong_to_none_can_follow_at_the_end(device):
    """Without waiting for a GPU; what is reduced is the same."""
    segment = torch.tensor([3, -1, 0, 0, 3, -1, 1], device=device)
    feats = torch.arange(14.0, device=device).view(7, 2)
    exact = ops.segments(segment, 5)
    loose = ops.segments(segment, 5, exact=False)
    assert loose[1].equal(exact[1])
    assert loose[0][: int(exact[1][-1])].equal(exact[0])
    wanted, _ = ops.segment_reduce(feats, *exact, reduce="mean")
    assert ops.segment_reduce(feats, *loose, reduce="mean")[0].equal(wanted)
