# SPDX-License-Identifier: MIT
"""Operators given index arrays that do not belong together: one clear error, no stray access."""

from __future__ import annotations

import clouds
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite._native import C
from torchsparse_lite.ops.pairs import tile_rows
from torchsparse_lite.ops.scratch import scratch_on

CUBE = tsl.ConvGeometry.same(3)
FAR = 10**9


@pytest.fixture(scope="module")
def kernel_map():
    coords = clouds.surface_coords(12)
    x = tsl.SparseTensor(torch.ones(len(coords), 1), coords)
    return x.manager.submanifold(x.level, CUBE)


@pytest.fixture(scope="module")
def pairs(kernel_map):
    """in_index, out_index, tile_ptr and the number of rows."""
    num_out = kernel_map.num_out
    tile_ptr = ops.tile_pairs(kernel_map.out_index, kernel_map.tap_ptr, num_out)
    return kernel_map.in_index, kernel_map.out_index, tile_ptr, num_out


def at(index, entry, value):
    """A copy with one entry changed."""
    changed = index.clone()
    changed.view(-1)[entry] = value
    return changed


def broken(pairs, which):
    in_index, out_index, tile_ptr, num_rows = pairs
    last = len(in_index) - 1
    return {
        "in too large": (at(in_index, last, FAR), out_index, tile_ptr),
        "in one too large": (at(in_index, 3, num_rows), out_index, tile_ptr),
        "in negative": (at(in_index, 0, -1), out_index, tile_ptr),
        "out too large": (in_index, at(out_index, last, FAR), tile_ptr),
        "out negative": (in_index, at(out_index, 0, -5), tile_ptr),
        "cut beyond the pairs": (in_index, out_index, at(tile_ptr, -1, FAR)),
        "cut negative": (in_index, out_index, at(tile_ptr, 0, -1)),
        "cut descends": (in_index, out_index, at(tile_ptr, 0, last)),
    }[which]


BROKEN = (
    "in too large",
    "in one too large",
    "in negative",
    "out too large",
    "out negative",
    "cut beyond the pairs",
    "cut negative",
    "cut descends",
)
WORDS = "in_index must be|out_index must be|tile_ptr must"


@pytest.mark.parametrize("which", BROKEN)
@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_and_pools_refuse_broken_pairs(pairs, which, threads):
    arrays, rows, count = broken(pairs, which), tile_rows(pairs[3]), pairs[3]
    feats, out = torch.ones(count, 4), torch.zeros(count, 4)
    weight, argmax = torch.ones(27, 4, 4), torch.zeros(count, 4, dtype=torch.int32)
    scratch = scratch_on(feats)
    calls = {
        "sparse_conv": lambda: C.sparse_conv(
            feats, weight, None, None, *arrays, rows, 1, False, False, -1, False, out, threads
        ),
        "weight_grad": lambda: C.sparse_conv_weight_grad(
            feats, out, *arrays, rows, 1, weight, threads
        ),
        "channelwise": lambda: C.channelwise_conv(
            feats,
            weight[:, 0].contiguous(),
            None,
            None,
            *arrays,
            rows,
            False,
            out,
            scratch,
            threads,
        ),
        "channelwise_grad": lambda: C.channelwise_weight_grad(
            feats, out, *arrays, rows, weight[:, 0].contiguous(), scratch, threads
        ),
        "max_pool": lambda: C.max_pool(feats, *arrays, rows, out, argmax, scratch, threads),
        "max_pool_backward": lambda: C.max_pool_backward(
            out, argmax, *arrays, rows, feats, scratch, threads
        ),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=WORDS):
            call()


def test_output_rows_of_another_tile_are_refused(pairs):
    """Sums of a tile live in its own scratch, so a row of its neighbour must not pass."""
    in_index, _, _, count = pairs
    tile_ptr = torch.stack([torch.zeros(1).long(), torch.tensor([4])])
    with pytest.raises(ValueError, match="tile_ptr must"):
        C.max_pool(
            torch.ones(count, 1),
            in_index[:4].clone(),
            torch.tensor([0, 1, 2, 6], dtype=torch.int32),
            tile_ptr,
            6,
            torch.zeros(6, 1),
            torch.zeros(6, 1, dtype=torch.int32),
            scratch_on(in_index),
            1,
        )


@pytest.mark.parametrize("groups", [0, -1, 3])
def test_groups_must_divide_the_channels(pairs, groups):
    *arrays, count = pairs
    feats, weight = torch.ones(count, 4), torch.ones(27, 4, 4)
    rows = tile_rows(count)
    with pytest.raises(ValueError, match="groups must divide"):
        C.sparse_conv(
            feats, weight, None, None, *arrays, rows, groups, False, False, -1, False, feats, 1
        )
    with pytest.raises(ValueError, match="groups must divide"):
        C.sparse_conv_weight_grad(feats, feats, *arrays, rows, groups, weight, 1)


@pytest.mark.parametrize("full_tap", [-2, 0, 27, 999])
def test_a_full_tap_must_be_full(pairs, full_tap):
    *arrays, count = pairs
    feats, weight = torch.ones(count, 4), torch.ones(27, 4, 4)
    with pytest.raises(ValueError, match="full_tap must be a tap with a pair for each"):
        C.sparse_conv(
            feats,
            weight,
            None,
            None,
            *arrays,
            tile_rows(count),
            1,
            False,
            False,
            full_tap,
            False,
            feats.clone(),
            1,
        )


def test_pair_lists_refuse_what_does_not_fit(kernel_map):
    k = kernel_map
    with pytest.raises(ValueError, match="in_index must be rows from 0"):
        ops.transpose_pairs(at(k.in_index, 5, FAR), k.out_index, k.tap_ptr, k.num_in)
    with pytest.raises(ValueError, match="tap_ptr must ascend"):
        ops.transpose_pairs(k.in_index, k.out_index, at(k.tap_ptr, 3, FAR), k.num_in)
    twice = torch.tensor([1, 0, 1], dtype=torch.int32)
    with pytest.raises(ValueError, match="must name an input once per tap"):
        ops.transpose_pairs(twice, twice, torch.tensor([0, 3]), 2)
    with pytest.raises(ValueError, match="tap_ptr must ascend"):
        ops.tile_pairs(k.out_index, at(k.tap_ptr, -1, FAR), k.num_out)


def test_neighbor_tables_refuse_what_does_not_fit(kernel_map):
    table = kernel_map.neighbors
    mask, ptr, rows = table.mask, table.ptr, table.rows
    with pytest.raises(ValueError, match="mask must have one bit per neighbour"):
        ops.pairs_by_tap((at(mask, 0, 0), ptr, rows), 27)
    full = mask[:1] | (1 << 30)
    ptr_one = torch.tensor([0, int(ptr[1]) + 1])
    with pytest.raises(ValueError, match="none beyond tap 26"):
        ops.pairs_by_tap((full, ptr_one, torch.cat([rows[: ptr[1]], rows[:1]])), 27)
    with pytest.raises(ValueError, match="ptr must ascend"):
        ops.pairs_by_tap((mask, at(ptr, -1, FAR), rows), 27)


def test_descent_refuses_what_does_not_fit():
    coords = clouds.surface_coords(12)
    coords = coords[clouds.morton_order(coords)]
    coarse, _, child_ptr, child_mask = ops.coarsen(coords)
    table = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE.triples)
    mask, ptr, rows = table
    with pytest.raises(ValueError, match="rows must be rows from 0"):
        ops.neighbors_descend((mask, ptr, at(rows, 0, FAR)), child_ptr, child_mask)
    with pytest.raises(ValueError, match="child_ptr must count the bits"):
        ops.neighbors_descend(table, at(child_ptr, 1, -7), child_mask)
    with pytest.raises(ValueError, match="child_ptr must count the bits"):
        ops.neighbors_descend(table, child_ptr, at(child_mask, 0, 255 - int(child_mask[0])))


@pytest.mark.parametrize(
    "row",
    [(0, 1 << 22, 0, 0), (0, 0, -(2**31), 0), (1024, 0, 0, 0), (-1, 0, 0, 0), (0, 0, 0, 131072)],
)
@pytest.mark.parametrize("function", [ops.unique_coords, ops.hash_build])
def test_coordinates_out_of_range_are_never_merged(row, function):
    coords = torch.tensor([[0, 0, 0, 0], list(row)], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"coords must have batch in 0\.\.1023 .* in row 1"):
        function(coords)


OF_SITES = {
    "cell": lambda coords: ops.coarse_sites(coords, CUBE.triples, "cell", None),
    "coarse_sites": lambda coords: ops.coarse_sites(coords, CUBE.triples, "full", None),
    "fine_sites": lambda coords: ops.fine_sites(coords, CUBE.triples, None),
    "neighbors_search": lambda coords: ops.neighbors_search(coords, ONE_SITE, CUBE.triples),
    "inverse": lambda coords: ops.neighbors_search(coords, ONE_SITE, CUBE.triples, inverse=True),
}
ONE_SITE = ops.hash_build(torch.tensor([[976, 0, 0, 0]], dtype=torch.int32))


@pytest.mark.parametrize("row", [(2000, 0, 0, 0), (-2, 0, 0, 0), (0, 0, 1 << 30, 0)])
@pytest.mark.parametrize("name", OF_SITES)
def test_searches_and_sites_of_coordinates_out_of_range_are_refused(name, row):
    """Batch 2000 has the key of batch 976."""
    coords = torch.tensor([[1, 0, 0, 0], list(row), [1, 0, 0, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"coords must have batch in 0\.\.1023 .* in row 1"):
        OF_SITES[name](coords)


@pytest.mark.parametrize("name", OF_SITES)
def test_dead_rows_are_passed_over(name):
    dead = torch.full((1, 4), -1, dtype=torch.int32)
    live = torch.tensor([[1, 0, 0, 0]], dtype=torch.int32)
    found, wanted = (OF_SITES[name](torch.cat(rows)) for rows in ([live, dead], [live]))
    if isinstance(found, tuple):
        found, wanted = found[1][-1], wanted[1][-1]
    assert found.equal(wanted)


def test_convolution_over_no_channels_has_gradients():
    """A weight of no channels at all: nothing to do, and nothing to divide by."""
    coords = clouds.surface_coords(6)
    weight = torch.ones(27, 0, 0, requires_grad=True)
    x = tsl.SparseTensor(torch.ones(len(coords), 0, requires_grad=True), coords)
    tsl.nn.functional.conv3d(x, weight, kernel_size=3).feats.sum().backward()
    assert weight.grad.shape == (27, 0, 0)
