# SPDX-License-Identifier: MIT
"""Cases 1 to 24 of the peers' case bank: facts measured on other libraries, or bugs they had.

The number in a test's name is the case. Cases 8, 15, 17, 18 and 23 are in
``test_case_bank_state.py``, case 16 is ``test_gradcheck.py``, 25 (two GPUs) ends this file.
"""

from __future__ import annotations

import itertools
import pickle

import clouds
import harness
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as nnf

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

SOME = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
FEATS_ME = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
ROWS_ME = [[[1.0, 2.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
ROWS_ME_2D = [*ROWS_ME, [[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]]


def tensor_of(sites, feats=None, **options):
    """A tensor from a list of (x, y, z) or (batch, x, y, z), features one by default."""
    rows = [site if len(site) == 4 else (0, *site) for site in sites]
    coords = torch.tensor(rows, dtype=torch.int32).reshape(-1, 4)
    feats = torch.ones(len(rows), 1) if feats is None else torch.tensor(feats)
    return tsl.SparseTensor(feats, coords, **options)


def values_at(tensor):
    """{(x, y, z): feature row} of a one-sample tensor."""
    rows = zip(tensor.coords.tolist(), tensor.feats.tolist(), strict=True)
    return {tuple(site[1:]): tuple(feats) for site, feats in rows}


def test_01_minkowski_line():
    x = tensor_of([(0, 0, 0), (1, 0, 0), (2, 0, 0)], FEATS_ME)
    weight = torch.tensor(ROWS_ME)
    down = tsf.conv3d(x, weight, kernel_size=(2, 1, 1), stride=(2, 1, 1))
    assert values_at(down) == {(0, 0, 0): (2, 2), (1, 0, 0): (3, 3)}
    assert down.stride == (2, 1, 1)
    same = tsf.conv3d(x, weight, kernel_size=(2, 1, 1))
    assert values_at(same) == {(0, 0, 0): (2, 2), (1, 0, 0): (2, 3), (2, 0, 0): (3, 3)}


def test_02_minkowski_plane_and_back():
    x = tensor_of([(0, 0, 0), (1, 1, 0), (2, 1, 0)], FEATS_ME)
    x_fastest = torch.tensor(ROWS_ME_2D)
    weight = torch.stack([x_fastest[x + 2 * y] for x in range(2) for y in range(2)])
    options = {"kernel_size": (2, 2, 1), "stride": (2, 2, 1)}
    down = tsf.conv3d(x, weight, **options)
    assert values_at(down) == {(0, 0, 0): (3, 2), (1, 0, 0): (1, 2)}
    up = tsf.conv3d(down, weight, transposed=True, **options)
    assert values_at(up) == {(0, 0, 0): (7, 8), (1, 1, 0): (5, 3), (2, 1, 0): (2, 3)}


@pytest.mark.parametrize(
    ("site", "padding", "shape", "expected"),
    [
        ((5, 5, 5), 1, 6, list(itertools.product((2, 3), repeat=3))),
        ((5, 5, 5), 0, 5, [(2, 2, 2)]),
        ((4, 5, 5), 0, 5, [(1, 2, 2), (2, 2, 2)]),
        ((6, 6, 6), 1, 6, [(3, 3, 3)]),
    ],
)
def test_03_sites_of_spconv(site, padding, shape, expected):
    x = tensor_of([site], spatial_shape=(12, 12, 12))
    y = tsf.conv3d(x, torch.ones(27, 1, 1), kernel_size=3, stride=2, padding=padding)
    assert sorted(values_at(y)) == expected
    assert y.spatial_shape == (shape,) * 3


@pytest.mark.parametrize(
    ("site", "kernel", "stride", "shape"),
    [((2, 2, 7), 3, 2, (8, 8, 8)), ((2, 0, 0), 1, 4, None), ((2, 0, 0), 1, 4, (8, 8, 8))],
)
def test_04_points_that_vanish_leave_an_empty_tensor(site, kernel, stride, shape):
    x = tensor_of([site], spatial_shape=shape)
    weight = torch.ones(kernel**3, 1, 2, requires_grad=True)
    y = tsf.conv3d(x, weight, torch.zeros(2), kernel_size=kernel, stride=stride)
    assert y.shape == (0, 2)
    assert y.stride == (stride,) * 3
    z = tsf.conv3d(y, torch.ones(27, 2, 3), kernel_size=3)
    assert z.shape == (0, 3)
    y.feats.sum().backward()
    assert weight.grad.abs().sum() == 0


def test_04_a_shape_smaller_than_the_window_leaves_an_empty_tensor():
    x = tensor_of([(0, 0, 0)], spatial_shape=(2, 2, 2))
    y = tsf.conv3d(x, torch.ones(27, 1, 1), kernel_size=3, stride=2)
    assert len(y) == 0
    assert y.spatial_shape == (0, 0, 0)


def test_05_inverse_returns_the_encoder_coordinates(device):
    """Same rows in the same order and the very level, through two strides."""
    x = harness.sparse(clouds.signed_coords(80, batch_size=2), 4, device=device)
    weight = harness.random_weight(2, 4, 4).to(device)
    options = {"kernel_size": 2, "stride": 2}
    one = tsf.conv3d(x, weight, **options)
    two = tsf.conv3d(one, weight, **options)
    up = tsf.conv3d(two, weight, transposed=True, **options)
    top = tsf.conv3d(up, weight, transposed=True, **options)
    assert torch.equal(up.coords, one.coords)
    assert up.stride == (2, 2, 2)
    assert torch.equal(top.coords, x.coords)
    assert top.stride == (1, 1, 1)
    assert torch.equal((top + x).coords, x.coords)


def test_05_maps_are_keyed_by_the_whole_geometry():
    """Between the same two levels every difference in geometry gives its own map."""
    x = harness.sparse(clouds.signed_coords(80), 4)
    geometry = tsl.ConvGeometry(kernel_size=2, stride=2)
    coarse = x.manager.strided(x.level, geometry, rule="full")
    first = x.manager.kernel_map(x.level, coarse, geometry)
    assert x.manager.kernel_map(x.level, coarse, geometry) is first
    for change in ({"kernel_size": 3}, {"dilation": 2}, {"padding": 1}, {"kernel_size": (2, 2, 1)}):
        other = tsl.ConvGeometry(**({"kernel_size": 2, "stride": 2} | change))
        found = x.manager.kernel_map(x.level, coarse, other)
        assert found is not first
        assert found.geometry == other
        args = (other.kernel_size, other.stride, other.dilation, other.padding)
        expected = harness.oracle_relation(x.coords, coarse.coords, *args)
        assert harness.relation(found, x.coords, coarse.coords) == expected


def test_06_degrees_of_kernel_four_stride_four():
    x = tensor_of([(i, 0, 0) for i in range(16)])
    weight = torch.ones(4, 1, 1)
    options = {"kernel_size": (4, 1, 1), "stride": (4, 1, 1), "padding": (1, 0, 0)}
    y = tsf.conv3d(x, weight, **options)
    assert {site[0]: v[0] for site, v in values_at(y).items()} == {0: 3, 1: 4, 2: 4, 3: 4, 4: 1}


def test_06_solid_cube_is_covered_both_ways():
    """The bug behind this case left 721 of 4,096 voxels unreachable."""
    coords = clouds.solid_coords((16, 16, 16))
    x = tsl.SparseTensor(torch.ones(len(coords), 1), coords)
    options = {"kernel_size": 4, "stride": 4, "padding": 1}
    y = tsf.conv3d(x, torch.ones(64, 1, 1), **options)
    assert len(y) == 125
    back = tsf.conv3d(
        y.replace_feats(torch.ones(125, 1)), torch.ones(64, 1, 1), transposed=True, **options
    )
    assert len(back) == 4096
    assert (back.feats > 0).all()


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product(range(1, 7), range(1, 6))))
def test_06_relation_at_the_cell_borders(kernel, stride):
    """Edges are unique and obey fine = s * coarse + tap - floor((k - 1) / 2)."""
    pad = (kernel - 1) // 2
    fine = sorted({-stride, -1, 0, stride - 1, stride})
    x = tensor_of([(f, 0, 0) for f in fine])
    geometry = tsl.ConvGeometry(
        kernel_size=(kernel, 1, 1), stride=(stride, 1, 1), padding=(pad, 0, 0)
    )
    coarse = x.manager.strided(x.level, geometry, rule="full")
    found = harness.relation(
        x.manager.kernel_map(x.level, coarse, geometry), x.coords, coarse.coords
    )
    assert {(tap, f[1], c[1]) for tap, f, c in found} == {
        (tap, f, (f - tap + pad) // stride)
        for f in fine
        for tap in range(kernel)
        if (f - tap + pad) % stride == 0
    }


def test_07_generative_support():
    geometry = tsl.ConvGeometry(kernel_size=3, stride=2, padding=1)
    one = tensor_of([(1, 1, 1)], stride=2)
    fine = one.manager.generative(one.level, geometry)
    assert clouds.site_set(fine.coords) == {
        (0, *xyz) for xyz in itertools.product((1, 2, 3), repeat=3)
    }
    kernel_map = one.manager.kernel_map(fine, one.level, geometry)
    assert kernel_map.tap_ptr.tolist() == list(range(28))
    two = tensor_of([(1, 1, 1), (2, 1, 1)], stride=2)
    assert len(two.manager.generative(two.level, geometry)) == 45


def test_09_far_away_pattern_has_identical_features(device):
    """A linear index of 4 x 2048 x 2048 x 512 cells passes 2^31; the result must not notice."""
    local = clouds.box_coords((12, 12, 12), 300, seed=3)
    results = []
    for batch, shift, shape in (
        (0, (0, 0, 0), (64,) * 3),
        (3, (2036, 2036, 500), (2048, 2048, 512)),
    ):
        coords = local + torch.tensor([batch, *shift], dtype=torch.int32)
        x = harness.sparse(
            coords, 4, dtype=torch.float32, device=device, spatial_shape=shape, batch_size=4
        )
        y = tsf.conv3d(x, harness.random_weight(3, 4, 8, dtype=x.dtype).to(device), kernel_size=3)
        weight = harness.random_weight(2, 8, 8, dtype=x.dtype).to(device)
        down = tsf.conv3d(y, weight, kernel_size=2, stride=2)
        up = tsf.conv3d(down, weight, kernel_size=2, stride=2, transposed=True)
        cell = torch.tensor([batch, *(s // 2 for s in shift)], dtype=torch.int32)
        order = clouds.row_lookup(down.coords.cpu() - cell, oracle.coarse_sites(local, 2, 2))
        results.append((y.feats, down.feats[order.to(device)], up.feats))
    for near, far in zip(*results, strict=True):
        assert torch.equal(near, far)


def small_network(channels=4):
    torch.manual_seed(0)
    return tsl.nn.Sequential(
        tsl.nn.Conv3d(channels, 8, 3),
        tsl.nn.BatchNorm(8),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(8, 16, 2, 2),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(16, 8, 2, 2, transposed=True),
        tsl.nn.Conv3d(8, 4, 1),
    )


def test_10_batch_of_four_equals_four_runs(device):
    net = small_network().eval().to(device)
    x = harness.sparse(clouds.surface_coords(16, batch_size=4), 4, dtype=torch.float32).to(device)
    together = net(x).decompose()
    assert len(together) == 4
    for part, whole in zip(x.decompose(), together, strict=True):
        alone = net(part)
        assert torch.equal(alone.coords, whole.coords)
        assert (alone.feats - whole.feats).abs().max() <= 1e-5


DENSE_CASES = [
    (k, s, p, d)
    for k, s, p, d in itertools.product((2, 3), (1, 2, 3), (0, 1, 2), (1, 2, 3))
    if s == 1 or d == 1
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), DENSE_CASES)
def test_11_the_grid_of_spconv(kernel, stride, padding, dilation):
    """spconv's own test_conv: shape 19 x 18 x 17, all strides, paddings, dilations."""
    shape, batch = (19, 18, 17), 1 + stride % 2
    coords = clouds.box_coords(shape, 300, batch_size=batch, seed=kernel)
    x = harness.sparse(coords, 8, spatial_shape=shape, batch_size=batch)
    weight, bias = harness.random_weight(kernel, 8, 12), clouds.random_values(12, seed=2)
    args = (kernel, stride, dilation, padding)
    sites = oracle.coarse_sites(coords, *args, spatial_shape=shape)
    grad = clouds.random_values(len(sites), 12, seed=3)
    expected = harness.dense_reference(
        harness.dense_conv(*args),
        coords,
        x.feats,
        sites,
        weight,
        bias,
        grad,
        shape=shape,
        batch_size=batch,
    )
    actual = harness.evaluate(
        x,
        sites,
        weight,
        bias,
        grad,
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        submanifold=False,
    )
    harness.compare(actual, expected, torch.float64)


def structured(pattern, channels):
    """(27, C, C) whole-number weights."""
    if pattern == "single offset":
        weight = torch.zeros(27, channels, channels)
        weight[4] = torch.eye(channels)
        return weight
    full = torch.ones(channels, channels)
    block = {"ones": full, "triu": full.triu(), "tril": full.tril(), "eye": torch.eye(channels)}
    return block[pattern].repeat(27, 1, 1)


@pytest.mark.parametrize("pattern", ["ones", "triu", "tril", "eye", "single offset"])
@pytest.mark.parametrize("channels", [7, 13, 23, 33, 65])
@pytest.mark.parametrize("num", [200, 1023])
def test_12_structured_weights_and_tails(device, pattern, channels, num):
    """Whole numbers, so float32 must be exact in every tail of rows and channels."""
    coords = clouds.signed_coords(num, low=-6, high=7, seed=num)
    feats = clouds.integer_values(num, channels, seed=1)
    weight = structured(pattern, channels)
    pairs = np.array(oracle.pairs_of(coords, coords, 3, 1, 1, 1))
    expected = torch.zeros(num, channels, dtype=torch.float64)
    for tap in range(27):
        _, i, o = torch.from_numpy(pairs[pairs[:, 0] == tap]).unbind(1)
        expected[o] += feats[i].double() @ weight[tap].double()
    x = tsl.SparseTensor(feats.to(device), coords.to(device))
    y = tsf.conv3d(x, weight.to(device), kernel_size=3)
    assert torch.equal(y.feats.cpu().double(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [7, 33])
def test_12_a_million_rows(channels):
    """One off-centre tap on 2^20 rows: every output is its neighbour's feature, or zero."""
    extent = 102
    coords = clouds.box_coords((extent,) * 3, 2**20, seed=1)
    feats = clouds.integer_values(2**20, channels, seed=2)
    y = tsf.conv3d(
        tsl.SparseTensor(feats, coords), structured("single offset", channels), kernel_size=3
    )
    cell = coords.long()[:, 1:]
    table = torch.full((extent,) * 3, -1)
    table[cell.unbind(1)] = torch.arange(2**20)
    wanted = cell + torch.tensor([-1, 0, 0])
    rows = table[wanted.clamp(min=0).unbind(1)].where(wanted[:, 0] >= 0, -1)
    expected = feats[rows.clamp(min=0)] * (rows >= 0).unsqueeze(1)
    assert torch.equal(y.feats, expected)


@pytest.mark.parametrize("kernel", [5, 7])
def test_13_large_kernels(device, kernel):
    """125 and 343 taps: four and eleven mask words, forward and backward."""
    shape = (9, 8, 7)
    coords = clouds.box_coords(shape, 120, seed=kernel)
    x = harness.sparse(coords, 3, device=device, spatial_shape=shape)
    weight, bias = harness.random_weight(kernel, 3, 5), clouds.random_values(5, seed=2)
    grad = clouds.random_values(len(coords), 5, seed=3)
    sites = oracle.sites_of(coords)
    expected = harness.dense_reference(
        harness.dense_submanifold(kernel, 1),
        coords,
        x.feats,
        sites,
        weight,
        bias,
        grad,
        shape=shape,
        batch_size=1,
    )
    actual = harness.evaluate(x, sites, weight, bias, grad, kernel_size=kernel)
    harness.compare(actual, expected, torch.float64)


def test_14_max_pool_of_an_all_negative_window():
    x = tensor_of([(0, 0, 0), (1, 0, 0), (4, 0, 0)], [[-3.0], [-2.0], [-5.0]])
    pooled = tsf.max_pool3d(x, kernel_size=2)
    assert values_at(pooled) == {(0, 0, 0): (-2.0,), (2, 0, 0): (-5.0,)}
    assert tsf.global_max_pool(x).tolist() == [[-2.0]]


def test_14_average_divides_by_the_active_count():
    x = tensor_of([(0, 0, 0, 0), (0, 1, 0, 0), (1, 4, 0, 0)], [[1.0], [4.0], [8.0]])
    pooled = tsf.avg_pool3d(x, kernel_size=2)
    assert sorted(pooled.feats.flatten().tolist()) == [2.5, 8.0]
    assert tsf.global_avg_pool(x).tolist() == [[2.5], [8.0]]
    assert tsf.global_sum_pool(x).tolist() == [[5.0], [8.0]]


@pytest.mark.parametrize("mode", ["max", "avg", "sum"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1, "submanifold": True},
        {"kernel_size": (3, 1, 2), "stride": (2, 1, 1), "padding": (1, 0, 0), "dilation": 2},
        {"kernel_size": 3, "stride": 2, "padding": 0, "rule": "cell"},
    ],
)
def test_14_pools_against_the_oracle(device, mode, options):
    coords = clouds.signed_coords(120, batch_size=2, seed=4)
    x = harness.sparse(coords, 5, device=device)
    args = (
        options["kernel_size"],
        options["stride"],
        options.get("dilation", 1),
        options.get("padding", 0),
    )
    sites = oracle.sites_of(coords)
    if not options.get("submanifold"):
        sites = oracle.coarse_sites(coords, *args, rule=options.get("rule", "full"))
    pairs = oracle.pairs_of(coords, sites, *args)
    feats = x.feats.clone().requires_grad_()
    pool = getattr(tsf, f"{mode}_pool3d")
    out = harness.in_site_order(pool(x.replace_feats(feats), **options), sites)
    clouds.assert_close(out, oracle.pool(x.feats.cpu(), pairs, len(sites), mode), tolerance=1e-12)
    grad = clouds.random_values(len(sites), 5, seed=5)
    (got,) = torch.autograd.grad((out * grad.to(device)).sum(), feats)
    want = oracle.pool_grad(x.feats.cpu(), pairs, grad, mode)
    clouds.assert_close(got, want, tolerance=1e-12)


def test_19_two_runs_are_bitwise_equal_under_deterministic_algorithms(device):
    """Forward and backward of a network under torch.use_deterministic_algorithms(True)."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            net = small_network().to(device)
            x = harness.sparse(clouds.surface_coords(20), 4, dtype=torch.float32, device=device)
            y = net(x)
            y.feats.square().mean().backward()
            results.append([y.feats, *(p.grad for p in net.parameters())])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    finally:
        torch.use_deterministic_algorithms(before)


def test_20_points_with_duplicates_through_a_point_voxel_branch():
    """mmdetection3d's SPVCNN shape test: 2 x 100 points in 10^3 cells, repeats included."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 10, (200, 3), generator=generator).float()
    batch = torch.arange(200).div(100, rounding_mode="floor").float()
    points = tsl.PointTensor(
        clouds.random_values(200, 4, dtype=torch.float32), torch.column_stack([batch, cells + 0.5])
    )
    voxels, index, counts = tsl.voxelize(points, 1.0)
    assert len(voxels) < 200
    assert counts.sum() == 200
    y = tsl.nn.Conv3d(4, 96, 3)(voxels)
    assert tsl.devoxelize(y, points, 1.0, mode="trilinear").shape == (200, 96)
    assert torch.equal(tsl.devoxelize(y, points, 1.0, mode="nearest"), y.feats[index])


def test_20_four_voxels_down():
    sites = [(12, 819, 131), (23, 470, 111), (13, 890, 99), (12, 800, 122)]
    x = tensor_of(sites, np.eye(4, dtype=np.float32).tolist())
    assert tsl.nn.Conv3d(4, 4, 2, 2)(x).shape == (4, 4)
    assert tsl.nn.Conv3d(4, 16, 3)(x).shape == (4, 16)


def test_21_coordinates_changed_in_place_are_noticed():
    x = harness.sparse(clouds.signed_coords(30), 4)
    layer = tsl.nn.Conv3d(4, 4, 3).double()
    layer(x)
    with pytest.raises(AttributeError, match="SparseTensor"):
        x.coords = x.coords * 2
    with pytest.raises(AttributeError, match="replace_feats"):
        x.feats = x.feats * 2
    x.coords.mul_(2)
    with pytest.raises(RuntimeError, match="coords"):
        layer(x)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.coords,
        lambda x: tsl.nn.Conv3d(4, 4, 3).double()(x),
        lambda x: tsl.nn.Conv3d(4, 4, 1).double()(x),
        lambda x: tsl.nn.MaxPool3d(2)(x),
        lambda x: tsl.nn.GlobalAvgPool()(x),
        lambda x: tsl.nn.ReLU()(x),
        lambda x: tsl.nn.Linear(4, 4).double()(x),
        lambda x: tsl.nn.Conv3d(4, 4, 3).double()(x.clone(), target=x),
        lambda x: tsl.nn.Conv3d(4, 4, 3).double()(harness.sparse(SOME, 4), target=x._level),
        lambda x: x + x,
        lambda x: x * 2,
        lambda x: tsl.cat([x, x]),
        lambda x: x[torch.ones(len(x), dtype=torch.bool)],
        lambda x: x.dense(shape=(8, 8, 8), origin=(-4, -4, -4)),
        lambda x: x.decompose(),
        lambda x: x.float(),
        lambda x: tsl.sparse_collate([x]),
        lambda x: tsl.devoxelize(x, tsl.PointTensor(torch.ones(1, 1), torch.ones(1, 3)), 1.0),
        pickle.dumps,
    ],
)
def test_21_every_use_notices_coordinates_changed_in_place(use):
    """Also where everything that the use needs is already known."""
    coords = clouds.signed_coords(30)
    x = harness.sparse(coords, 4)
    layers = [tsl.nn.Conv3d(4, 4, 3), tsl.nn.Conv3d(4, 4, 1), tsl.nn.MaxPool3d(2)]
    for layer in layers:
        layer.double()(x)
    coords[0, 0] += 1
    with pytest.raises(RuntimeError, match="SparseTensor: coords must be left"):
        use(x)
    assert "30 sites" in repr(x)


def test_21_a_finer_level_that_was_changed_is_noticed():
    """The decoder's target is the encoder's level, found by the manager."""
    coords = clouds.signed_coords(30)
    down = tsl.nn.MaxPool3d(2)(harness.sparse(coords, 4))
    coords.add_(1)
    with pytest.raises(RuntimeError, match="coords"):
        tsl.nn.Upsample(2)(down)


def test_22_tap_rows_are_those_of_the_convention_table():
    """The row an output uses for an input at the origin; x slowest as in spconv and torch."""
    weight = torch.arange(27.0).reshape(27, 1, 1)
    for neighbour, row in (((1, 0, 0), 4), ((0, 1, 0), 10), ((0, 0, 1), 12), ((0, 0, 0), 13)):
        sites = [(0, 0, 0)] if neighbour == (0, 0, 0) else [(0, 0, 0), neighbour]
        x = tensor_of(sites, [[1.0]] + [[0.0]] * (len(sites) - 1))
        assert values_at(tsf.conv3d(x, weight, kernel_size=3))[neighbour] == (row,)
    small = torch.arange(8.0).reshape(8, 1, 1)
    for site, row in (((1, 0, 0), 4), ((0, 1, 0), 2), ((0, 0, 1), 1)):
        y = tsf.conv3d(tensor_of([site]), small, kernel_size=2, stride=2)
        assert values_at(y) == {(0, 0, 0): (row,)}


@pytest.mark.parametrize("kernel", [2, 3])
def test_22_weights_in_other_orders_after_conversion(kernel):
    """x-fastest rows (MinkowskiEngine) and KRSC (spconv) give dense conv3d's result."""
    shape = (6, 6, 6)
    coords = clouds.box_coords(shape, 60)
    x = harness.sparse(coords, 3, spatial_shape=shape)
    krsc = clouds.random_values(5, kernel, kernel, kernel, 3, seed=1)
    x_fastest = krsc.permute(3, 2, 1, 4, 0).reshape(kernel**3, 3, 5)
    grid = torch.arange(kernel**3).reshape(kernel, kernel, kernel)
    from_x_fastest = x_fastest[grid.permute(2, 1, 0).flatten()]
    from_krsc = krsc.permute(1, 2, 3, 4, 0).reshape(kernel**3, 3, 5)
    dense_weight = krsc.permute(0, 4, 1, 2, 3)
    from_dense = dense_weight.permute(2, 3, 4, 1, 0).reshape(kernel**3, 3, 5)
    dense = nnf.conv3d(oracle.scatter_dense(coords, x.feats, shape, 1), dense_weight, stride=2)
    for weight in (from_x_fastest, from_krsc, from_dense):
        y = tsf.conv3d(x, weight, kernel_size=kernel, stride=2)
        clouds.assert_close(y.feats, oracle.gather_dense(dense, y.coords), tolerance=1e-10)


def test_24_repeated_calls_stay_equal(device):
    coords = clouds.surface_coords(24).to(device)
    layer = tsl.nn.Conv3d(128, 128, 2, 2).to(device)
    x = harness.sparse(coords, 128, dtype=torch.float32, device=device)
    first = layer(x).feats
    assert torch.isfinite(first).all()
    for _ in range(99):
        assert torch.equal(layer(x).feats, first)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_25_the_other_device_is_guarded():
    coords = clouds.surface_coords(16)
    outputs = []
    for name in ("cuda:0", "cuda:1"):
        x = harness.sparse(coords, 8, dtype=torch.float32, device=name)
        weight = harness.random_weight(3, 8, 8, dtype=torch.float32).to(name)
        outputs.append(tsf.conv3d(x, weight, kernel_size=3).feats)
        assert outputs[-1].device == torch.device(name)
    assert torch.equal(outputs[0].cpu(), outputs[1].cpu())


@pytest.mark.parametrize("batch_size", [9, 65, 1024])
def test_pyramids_of_many_elements_end(batch_size):
    """No level of such a batch is small: each element keeps eight cells around its origin."""
    corners = torch.tensor(list(itertools.product((-1, 0), repeat=3)), dtype=torch.int32)
    element = tsl.SparseTensor(torch.ones(8, 1), torch.nn.functional.pad(corners, (1, 0)))
    x = tsl.sparse_collate([element] * batch_size)
    x = x.replace_feats(clouds.random_values(len(x), 2))
    weight = harness.random_weight(3, 2, 2)
    y = tsf.conv3d(x, weight, kernel_size=3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    by_hash = tsl.SparseTensor(x.feats[order], x.coords[order])
    assert x.level.is_morton
    assert not by_hash.level.is_morton
    assert torch.equal(tsf.conv3d(by_hash, weight, kernel_size=3).feats, y.feats[order])
