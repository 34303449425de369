# SPDX-License-Identifier: MIT
"""Properties of coordinates, tables, geometry and kernel maps over generated cases."""

from __future__ import annotations

import itertools

import clouds
import harness
import numpy as np
import oracle
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.manager import _sites_per_site, _windows_per_site
from torchsparse_lite.nn import functional as tsf

LOW, HIGH = -131072, 131071
near = st.integers(-6, 6)
anywhere = st.one_of(near, st.integers(LOW, HIGH), st.sampled_from((LOW, LOW + 1, HIGH - 1, HIGH)))
first_two = st.integers(0, 1)
batches = st.one_of(st.integers(0, 2), st.sampled_from((511, 512, 1023)))


def site_lists(axis=near, batch=first_two, *, unique=True, max_size=30):
    return st.lists(st.tuples(batch, axis, axis, axis), unique=unique, max_size=max_size)


def triples(low, high):
    return st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * 3))


kernels = triples(1, 4).filter(lambda k: np.prod(oracle.triple(k)) <= 36)
geometries = st.tuples(kernels, triples(1, 3), triples(1, 3), triples(0, 3))


def to_coords(sites):
    return torch.tensor(sites, dtype=torch.int32).reshape(-1, 4)


def geometry_of(kernel, stride, dilation, padding):
    return tsl.ConvGeometry(kernel_size=kernel, stride=stride, dilation=dilation, padding=padding)


def on(sites, channels=2, **options):
    return harness.sparse(to_coords(sites), channels, **options)


@given(geometries)
def test_geometry_is_a_value(geometry):
    """Equal settings are equal and hash alike however they were written; 3-tuples inside."""
    one, two = geometry_of(*geometry), geometry_of(*map(oracle.triple, geometry))
    assert one == two
    assert hash(one) == hash(two)
    assert (one.kernel_size, one.stride, one.dilation, one.padding) == tuple(
        map(oracle.triple, geometry)
    )
    assert one.kernel_volume == len(oracle.taps_of(geometry[0]))


@given(geometries, st.tuples(*[st.integers(1, 20)] * 3))
def test_output_shape_is_that_of_dense_torch(geometry, shape):
    expected = tuple(max(n, 0) for n in oracle.output_shape(shape, *geometry))
    found = geometry_of(*geometry).output_shape(shape)
    assert tuple(max(n, 0) for n in found) == expected


@given(kernels, triples(1, 3))
def test_same_geometry_is_submanifold(kernel, dilation):
    same = tsl.ConvGeometry.same(kernel_size=kernel, dilation=dilation)
    assert same.stride == (1, 1, 1)
    assert same.padding == oracle.same_padding(kernel, dilation)


@given(site_lists(anywhere, batches, max_size=60), site_lists(anywhere, batches))
def test_hash_table_is_a_dict(keys, queries):
    table = {site: row for row, site in enumerate(keys)}
    wanted = keys[::2] + queries
    found = tsl.HashTable(to_coords(keys)).lookup(to_coords(wanted))
    assert found.tolist() == [table.get(site, -1) for site in wanted]


@given(site_lists(st.integers(-2, 2), unique=False), site_lists(st.integers(-2, 2), unique=False))
def test_hash_table_keeps_the_first_of_duplicates(first, second):
    reference: dict[tuple[int, ...], int] = {}
    for row, site in enumerate(first + second):
        reference.setdefault(site, row)
    both = tsl.HashTable(to_coords(first + second))
    grown = tsl.HashTable(to_coords(first)).insert(to_coords(second))
    query = to_coords(list(reference))
    for table in (both, grown):
        assert len(table) == len(reference)
        assert table.lookup(query).tolist() == list(reference.values())


@given(site_lists(anywhere, batches, unique=False, max_size=60))
@example([(0, 1, 1, 1)] * 5 + [(0, -1, -1, -1)])
def test_unique_coords_is_numpy_unique(sites):
    """Same set, same inverse up to naming, stable groups, Morton order."""
    coords = to_coords(sites)
    voxels, index, order, ptr = torch.ops.tsl.unique_coords(coords)
    expected = np.unique(coords.numpy(), axis=0) if sites else np.zeros((0, 4))
    assert clouds.site_set(voxels) == clouds.site_set(expected)
    assert len(voxels) == len(expected)
    assert torch.equal(clouds.morton_order(voxels), torch.arange(len(voxels)))
    assert (index.dtype, order.dtype, ptr.dtype) == (torch.int64,) * 3
    assert torch.equal(voxels[index], coords)
    assert ptr.tolist() == [0, *torch.bincount(index, minlength=len(voxels)).cumsum(0).tolist()]
    assert torch.equal(order, index.argsort(stable=True))


@given(site_lists(anywhere, batches))
def test_coarsen_is_floor_division(sites):
    """Parents are floor(c / 2), children of a parent are consecutive rows."""
    coords = to_coords(sites)
    coords = coords[clouds.morton_order(coords)].contiguous()
    coarse, parent, child_ptr, *_ = torch.ops.tsl.coarsen(coords)
    halves = torch.cat([coords[:, :1], coords[:, 1:].div(2, rounding_mode="floor")], 1)
    assert torch.equal(coarse[parent.long()], halves.int())
    assert len(clouds.site_set(coarse)) == len(coarse)
    assert torch.equal(clouds.morton_order(coarse), torch.arange(len(coarse)))
    counts = torch.bincount(parent.long(), minlength=len(coarse))
    assert child_ptr.tolist() == [0, *counts.cumsum(0).tolist()]


@given(site_lists(), kernels, triples(1, 3))
def test_submanifold_map_by_both_paths_and_the_oracle(sites, kernel, dilation):
    """Octree descent and hashing find the same pairs as the dictionary, ordered as promised."""
    geometry = tsl.ConvGeometry.same(kernel_size=kernel, dilation=dilation)
    coords = to_coords(sites)
    expected = harness.oracle_relation(
        coords, coords, kernel, 1, dilation, oracle.same_padding(kernel, dilation)
    )
    for order in (clouds.morton_order(coords), clouds.morton_order(coords).flip(0)):
        x = tsl.SparseTensor(torch.ones(len(coords), 1), coords[order])
        kernel_map = x.manager.submanifold(x.level, geometry)
        assert harness.relation(kernel_map, x.coords, x.coords) == expected
        check_layout(kernel_map)


def check_layout(kernel_map):
    """Dtypes, ascending outputs within a tap, and the packed row-major view of the same pairs."""
    taps = kernel_map.geometry.kernel_volume
    assert kernel_map.in_index.dtype == kernel_map.out_index.dtype == torch.int32
    assert kernel_map.tap_ptr.shape == (taps + 1,)
    for start, stop in zip(kernel_map.tap_ptr[:-1], kernel_map.tap_ptr[1:], strict=True):
        assert (kernel_map.out_index[start:stop].diff() > 0).all()
    table = kernel_map.neighbors
    assert table.mask.shape == (kernel_map.num_out, -(-taps // 32))
    bits = (table.mask.unsqueeze(2) >> torch.arange(32, dtype=torch.int32)) & 1
    bits = bits.flatten(1).bool()
    assert not bits[:, taps:].any()
    tap_of_pair = torch.repeat_interleave(torch.arange(taps), kernel_map.tap_ptr.diff())
    dense = torch.full((kernel_map.num_out, taps), -1)
    dense[kernel_map.out_index.long(), tap_of_pair] = kernel_map.in_index.long()
    assert torch.equal(bits[:, :taps], dense >= 0)
    assert torch.equal(table.ptr.diff(), (dense >= 0).sum(1))
    assert torch.equal(table.rows.long(), dense[dense >= 0])


@given(st.integers(65, 300), st.sampled_from((5, 8, 40)), st.integers(-3, 3), st.integers(0, 999))
def test_octree_descent_through_levels(num, extent, shift, seed):
    """Clouds large enough for the pyramid, at every parity of position, with distant batches."""
    coords = clouds.signed_coords(num, low=shift, high=shift + extent, batch_size=1, seed=seed)
    far = coords + torch.tensor([3, 1001, -77, 5], dtype=torch.int32)
    coords = torch.cat([coords, far])
    coords = coords[clouds.morton_order(coords)]
    x = tsl.SparseTensor(torch.ones(len(coords), 1), coords)
    geometry = tsl.ConvGeometry.same(kernel_size=3, dilation=1)
    by_descent = x.manager.submanifold(x.level, geometry)
    by_hash = tsl.CoordinateManager(search="hash").submanifold(x.level, geometry)
    for name in ("in_index", "out_index", "tap_ptr"):
        assert torch.equal(getattr(by_descent, name), getattr(by_hash, name))
    expected = harness.oracle_relation(coords, coords, 3, 1, 1, 1)
    assert harness.relation(by_descent, coords, coords) == expected
    check_layout(by_descent)


@given(site_lists(), geometries, st.sampled_from(("full", "cell")))
def test_strided_sites_and_map(sites, geometry, rule):
    x = on(sites)
    coarse = x.manager.strided(x.level, geometry_of(*geometry), rule=rule)
    expected = oracle.coarse_sites(x.coords, *geometry, rule=rule)
    assert clouds.site_set(coarse.coords) == set(expected)
    assert len(coarse) == len(expected)
    kernel_map = x.manager.kernel_map(x.level, coarse, geometry_of(*geometry))
    assert (kernel_map.num_in, kernel_map.num_out) == (len(sites), len(coarse))
    found = harness.relation(kernel_map, x.coords, coarse.coords)
    assert found == harness.oracle_relation(x.coords, coarse.coords, *geometry)
    check_layout(kernel_map)


@given(geometries, st.sampled_from(("full", "cell")))
@example((3, 2, 2, 0), "full")
@example((3, 4, 6, 1), "full")
def test_a_site_makes_no_more_sites_than_there_is_room_for(geometry, rule):
    """The bound, which capacities are planned with, is reached by one of the places in a period."""
    geometry = geometry_of(*geometry)
    period = to_coords([(0, *at) for at in itertools.product(*map(range, geometry.stride))])
    made = [len(ops.coarse_sites(site[None], geometry.triples, rule, None)) for site in period]
    assert max(made) == _sites_per_site(geometry, rule)


@given(geometries)
@example((3, 2, 2, 0))
def test_windows_per_site_by_trying_all(geometry):
    def along(kernel, stride, dilation, padding):
        starts = range(-dilation * kernel - stride, padding + stride + 1)
        windows = [{stride * c + dilation * tap - padding for tap in range(kernel)} for c in starts]
        return max(sum(fine in window for window in windows) for fine in range(stride))

    wanted = np.prod([along(*axis) for axis in zip(*map(oracle.triple, geometry), strict=True)])
    assert _windows_per_site(geometry_of(*geometry)) == wanted


@given(site_lists(max_size=12), geometries)
def test_generative_sites(sites, geometry):
    x = on(sites, stride=geometry[1])
    fine = x.manager.generative(x.level, geometry_of(*geometry))
    assert clouds.site_set(fine.coords) == set(oracle.fine_sites(x.coords, *geometry))
    kernel_map = x.manager.kernel_map(fine, x.level, geometry_of(*geometry))
    assert kernel_map.num_pairs == len(sites) * kernel_map.geometry.kernel_volume


@given(site_lists(), site_lists(), geometries)
def test_transposed_map_is_the_inverse_relation(fine, coarse, geometry):
    """Between any two sets of sites: in and out exchange places, and twice is the identity."""
    x, y = on(fine), on(coarse)
    forward = x.manager.kernel_map(x.level, y.level, geometry_of(*geometry))
    backward = forward.transposed
    there = harness.relation(forward, x.coords, y.coords)
    back = harness.relation(backward, y.coords, x.coords)
    assert there == {(tap, f, c) for tap, c, f in back}
    assert (backward.num_in, backward.num_out) == (forward.num_out, forward.num_in)
    assert forward.transposed is backward
    again = backward.transposed
    for name in ("in_index", "out_index", "tap_ptr"):
        assert torch.equal(getattr(again, name), getattr(forward, name))
    check_layout(backward)


@settings(max_examples=30)
@given(site_lists(max_size=15), geometries, st.integers(0, 1000))
def test_convolution_is_the_oracle(sites, geometry, seed):
    x = on(sites, 3, seed=seed)
    weight = harness.random_weight(geometry[0], 3, 2, seed=seed)
    options = dict(zip(("kernel_size", "stride", "dilation", "padding"), geometry, strict=True))
    y = tsf.conv3d(x, weight, submanifold=False, **options)
    pairs = oracle.pairs_of(x.coords, y.coords, *geometry)
    expected = oracle.conv(x.feats, weight, pairs, len(y))
    clouds.assert_close(y.feats, expected, tolerance=1e-10)


@given(site_lists(), site_lists())
def test_union_addition_is_commutative(one, two):
    x, y = on(one, batch_size=2), on(two, batch_size=2, seed=1)
    left, right = x + y, y + x
    assert clouds.site_set(left.coords) == set(one) | set(two)
    assert len(left) == len(set(one) | set(two))
    rows = clouds.row_lookup(right.coords, left.coords)
    assert torch.equal(left.feats, right.feats[rows])
    difference = (x + y) - y
    at = clouds.row_lookup(difference.coords, one)
    clouds.assert_close(difference.feats[at], x.feats, tolerance=1e-12)


@given(st.lists(site_lists(batch=st.just(0), max_size=8), min_size=1, max_size=4))
def test_collate_and_decompose_round_trip(samples):
    """Samples, empty ones among them, come back bit for bit and in their own row order."""
    parts = [on(sites, seed=seed, batch_size=1) for seed, sites in enumerate(samples)]
    both = tsl.sparse_collate(parts)
    assert both.batch_size == len(parts)
    assert len(both) == sum(map(len, samples))
    again = both.decompose()
    assert len(again) == len(parts)
    for part, back in zip(parts, again, strict=True):
        rows = clouds.row_lookup(back.coords, part.coords)
        assert len(back) == len(part)
        assert torch.equal(back.feats[rows], part.feats)
        assert back.batch_size == 1


@given(
    st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3), max_size=40),
    st.sampled_from((0.05, 0.1, 0.5, 1.0, 3.0)),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_voxelize_is_floor_in_the_asked_precision(xyz, size, precision):
    """Coordinates equal numpy's division and floor bit for bit, in float32 and float64."""
    coords = torch.tensor(xyz, dtype=torch.float32).reshape(-1, 3)
    points = tsl.PointTensor(torch.ones(len(xyz), 1), coords)
    voxels, index, counts = tsl.voxelize(points, size, precision=precision)
    dtype = np.float32 if precision == torch.float32 else np.float64
    expected = oracle.quantize(coords.numpy(), size, dtype=dtype)
    assert voxels.coords[index][:, 1:].tolist() == expected.tolist()
    assert counts.tolist() == torch.bincount(index, minlength=len(voxels)).tolist()
    if len(xyz):
        assert torch.equal(clouds.morton_order(voxels.coords), torch.arange(len(voxels)))


@given(site_lists(batch=st.just(0), max_size=20), st.integers(1, 3))
def test_dense_round_trip(sites, channels):
    """from_dense of dense gives back every site with a non-zero row."""
    assume(sites)
    x = on([(b, *(c + 6 for c in xyz)) for b, *xyz in sites], channels)
    back = tsl.SparseTensor.from_dense(x.dense(shape=(13, 13, 13)))
    assert clouds.site_set(back.coords) == clouds.site_set(x.coords)
    rows = clouds.row_lookup(back.coords, x.coords)
    assert torch.equal(back.feats[rows], x.feats)


@given(
    st.lists(st.tuples(*[st.floats(-20, 20, width=32)] * 3), min_size=1, max_size=40),
    st.sampled_from((0.1, 1, 2.5)),
)
def test_sparse_quantize_is_unique_floor(xyz, size):
    """numpy in, numpy out; the index and inverse belong to the voxels."""
    xyz = np.array(xyz, dtype=np.float32)
    voxels, first, inverse = tsl.sparse_quantize(xyz, size, return_index=True, return_inverse=True)
    assert isinstance(voxels, np.ndarray)
    assert voxels.dtype == np.int32
    cells = voxels[inverse]
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert (cells[first] == voxels).all()
    assert np.abs(cells - np.floor(xyz.astype(np.float64) / size)).max() <= 1
    plain = tsl.sparse_quantize(torch.from_numpy(xyz), size)
    assert torch.equal(plain, torch.from_numpy(voxels))
