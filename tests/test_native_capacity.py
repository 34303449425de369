# SPDX-License-Identifier: MIT
"""The compiled module: results with a capacity, arrays with room behind what is used."""

from __future__ import annotations

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA
from house_form import provoke

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite._native import C
from torchsparse_lite.ops.scratch import scratch_on

CUBE = tsl.ConvGeometry.same(3).triples
HALVING = tsl.ConvGeometry((2, 2, 2), (2, 2, 2)).triples
GEOMETRIES = [CUBE, tsl.ConvGeometry.same(5).triples, HALVING]
FAR = 2**31 - 1


def sorted_cloud(device="cpu"):
    coords = clouds.surface_coords(40, batch_size=2)
    return coords[clouds.morton_order(coords)].to(device)


class Call:
    """What an operator with a capacity (-1: none) needs from Python, and what it has allocated."""

    def __init__(self, coords, *shapes):
        self.coords, self.shapes, self.made = coords, shapes, []
        self.overflow = self.new(1).zero_()

    def new(self, *shape, dtype=torch.int32):
        return torch.full(shape, 77, dtype=dtype, device=self.coords.device)

    def allocate(self, size):
        for columns, more, dtype in self.shapes:
            shape = (size + more, columns) if columns else (size + more,)
            self.made.append(self.new(*shape, dtype=dtype))
        return tuple(self.made)

    def how(self, capacity):
        flag = None if capacity == -1 else self.overflow
        return self.allocate, scratch_on(self.coords), 2, capacity, flag


def unique(coords, capacity):
    call = Call(coords, (4, 0, torch.int32), (0, 1, torch.int64))
    rows = [call.new(len(coords), dtype=torch.int64) for _ in range(2)]
    C.unique_coords(coords, *rows, *call.how(capacity))
    return call.overflow, [*call.made, *rows]


def coarsen(coords, capacity):
    call = Call(coords, (4, 0, torch.int32), (0, 1, torch.int32), (0, 0, torch.uint8))
    parent = call.new(len(coords))
    C.coarsen(coords, parent, *call.how(capacity))
    return call.overflow, [*call.made, parent]


def coarse_sites(coords, capacity):
    call = Call(coords, (4, 0, torch.int32))
    C.coarse_sites(coords, CUBE, False, None, *call.how(capacity))
    return call.overflow, call.made


def fine_sites(coords, capacity):
    call = Call(coords, (4, 0, torch.int32))
    C.fine_sites(coords, HALVING, None, *call.how(capacity))
    return call.overflow, call.made


def search(coords, capacity):
    call = Call(coords, (0, 0, torch.int32))
    table = ops.hash_build(coords[coords[:, 0] >= 0])
    mask, ptr = call.new(len(coords), 1), call.new(len(coords) + 1, dtype=torch.int64)
    C.neighbors_search(coords, table, CUBE, False, mask, ptr, *call.how(capacity))
    return call.overflow, [*call.made, mask, ptr]


def descend(coords, capacity):
    call = Call(coords, (0, 0, torch.int32))
    coarse, _, child_ptr, child_mask = ops.coarsen(coords[coords[:, 0] >= 0])
    cells = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE)
    mask, ptr = call.new(len(coords), 1), call.new(len(coords) + 1, dtype=torch.int64)
    C.neighbors_descend(*cells, child_ptr, child_mask, mask, ptr, *call.how(capacity))
    return call.overflow, [*call.made, mask, ptr]


SIZED = [unique, coarsen, coarse_sites, fine_sites, search, descend]


@pytest.mark.parametrize("run", SIZED)
def test_the_cpu_takes_no_flag(run):
    words = "overflow must be None on the CPU", "a tensor"
    provoke(ValueError, words, lambda: run(sorted_cloud(), 10))


def test_the_cpu_takes_no_capacity():
    coords = sorted_cloud()
    how = pytest.fail, scratch_on(coords), 1, 10
    words = "coarsen: capacity must be -1 on the CPU", "10"
    provoke(ValueError, words, lambda: C.coarsen(coords, coords[:, 0].clone(), *how))


def test_the_cpu_quantises_without_a_flag():
    points, coords = torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int32)
    lattice = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    flag = torch.zeros(1, dtype=torch.int32)
    arguments = points, None, *lattice, coords, scratch_on(points), 1, flag
    provoke(ValueError, ["quantize: overflow must be None"], lambda: C.quantize(*arguments))


@pytest.mark.parametrize("on", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("run", SIZED)
def test_live_rows_are_those_without_a_capacity(run, on):
    coords = sorted_cloud(on)
    expected = run(coords, -1)[1]
    size = len(expected[0])
    padded = torch.cat([coords, coords.new_full((7, 4), -1)])
    for capacity in (size, size + 9):
        overflow, found = run(padded, capacity)
        assert overflow.item() == 0
        for whole, live in zip(found, expected, strict=True):
            assert torch.equal(whole[: len(live)], live)
        if found[0].ndim == 2:
            assert (found[0][size:] == -1).all()
    assert run(padded, size - 1)[0].item() == 1


@pytest.mark.parametrize("on", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_points_may_be_dead(on):
    points = torch.tensor([[0.5, 0.5, 0.5], [-0.5, 1.5, 2.5], [1e30, 0.0, 0.0]], device=on)
    flag = torch.zeros(1, dtype=torch.int32, device=on)
    lattice = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    for last, raised in ((-1, 0), (0, 1)):
        batch = torch.tensor([3, -1, last], dtype=torch.int32, device=on)
        coords = torch.zeros(3, 4, dtype=torch.int32, device=on)
        C.quantize(points, batch, *lattice, coords, scratch_on(points), 1, flag)
        assert coords.tolist() == [[3, 0, 0, 0], [-1] * 4, [-1] * 4]
        assert flag.item() == raised


@pytest.mark.parametrize("on", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_capacity_and_its_flag_go_together(on):
    coords = sorted_cloud(on)
    arguments = coords, coords[:, 0].clone(), pytest.fail, scratch_on(coords), 1
    flag = torch.zeros(1, dtype=torch.int32, device=on)
    together = ["overflow must be given where capacity is"]
    provoke(ValueError, together, lambda: C.coarsen(*arguments, 10))
    provoke(ValueError, together, lambda: C.coarsen(*arguments, -1, flag))
    words = "capacity must be -1 (none) or a number of rows", 2**31
    provoke(ValueError, words, lambda: C.coarsen(*arguments, 2**31, flag))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("room", [0, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_table_of_pairs_is_the_table_they_came_from(device, geometry, room, threads):
    coords = sorted_cloud(device)
    coarse = ops.coarsen(coords)[0] if geometry == HALVING else coords
    mask, ptr, rows = ops.neighbors_search(coarse, ops.hash_build(coords), geometry)
    volume = torch.tensor(geometry[0]).prod().item()
    in_index, out_index, tap_ptr = ops.pairs_by_tap((mask, ptr, rows), volume)
    behind = in_index.new_full((room,), FAR)
    made = torch.empty_like(mask), torch.empty_like(ptr), torch.cat([rows, behind]).fill_(FAR)
    C.table_of_pairs(
        torch.cat([in_index, behind]),
        torch.cat([out_index, behind]),
        tap_ptr,
        *made,
        scratch_on(coords),
        threads,
    )
    for found, expected in zip(made, (mask, ptr, torch.cat([rows, behind])), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pairs_may_have_room_behind_them(device, geometry):
    coords = sorted_cloud(device)
    coarse = ops.coarsen(coords)[0] if geometry == HALVING else coords
    mask, ptr, rows = ops.neighbors_search(coarse, ops.hash_build(coords), geometry)
    volume = torch.tensor(geometry[0]).prod().item()
    room = rows.new_full((100,), FAR)
    expected = ops.pairs_by_tap((mask, ptr, rows), volume)
    found = ops.pairs_by_tap((mask, ptr, torch.cat([rows, room])), volume)
    pairs = len(rows)
    tap_ptr = expected[2]
    assert torch.equal(found[2], tap_ptr)
    assert torch.equal(found[0][:pairs], expected[0])
    assert torch.equal(found[1][:pairs], expected[1])
    padded = [torch.cat([index, room]) for index in expected[:2]]
    back = ops.transpose_pairs(*expected, len(coords))
    for index, whole in zip(ops.transpose_pairs(*padded, tap_ptr, len(coords)), back, strict=True):
        assert torch.equal(index[:pairs], whole)
    tiles = ops.tile_pairs(expected[1], tap_ptr, len(coarse))
    assert torch.equal(ops.tile_pairs(padded[1], tap_ptr, len(coarse)), tiles)


def test_descent_may_end_before_the_children_do(device):
    coords = sorted_cloud(device)
    coarse, _, child_ptr, child_mask = ops.coarsen(coords)
    cells = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE)
    mask, ptr, rows = ops.neighbors_descend(cells, child_ptr, child_mask)
    found = ops.neighbors_descend(cells, child_ptr, child_mask, num_children=len(coords) + 3)
    assert torch.equal(found[0], torch.cat([mask, mask.new_zeros(3, 1)]))
    assert torch.equal(found[1], torch.cat([ptr, ptr[-1:].expand(3)]))
    assert torch.equal(found[2], rows)


def test_segments_may_end_before_the_rows_do(device):
    feats = clouds.random_values(9, 4).to(device)
    order = torch.tensor([3, 1, 8, 0, FAR, -FAR], device=device)
    ptr = torch.tensor([0, 1, 1, 4], device=device)
    for reduce in ("sum", "mean", "max"):
        expected = ops.segment_reduce(feats, order[:4], ptr, reduce=reduce)
        found = ops.segment_reduce(feats, order, ptr, reduce=reduce)
        assert torch.equal(found[0], expected[0])
