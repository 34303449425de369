# SPDX-License-Identifier: MIT
"""Cases 8, 15, 17, 18, 23 of the peers' case bank: keys, emptiness, dtypes, transport, limits."""

from __future__ import annotations

import copy
import io
import pickle

import clouds
import harness
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as nnf
from torch._subclasses.fake_tensor import FakeTensorMode

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

LOW, HIGH = -131072, 131071


def coords_of(*sites):
    return torch.tensor(sites, dtype=torch.int32).reshape(-1, 4)


def corner_sites():
    """Every mix of extreme, central and near-central values in every column."""
    axis = (LOW, -1, 0, 1, HIGH)
    batches = (0, 1, 511, 512, 1023)
    return coords_of(*[(b, x, y, z) for b in batches for x in axis for y in axis for z in axis])


def test_08_extreme_keys_are_distinct(device):
    """All corners of the range, the all-zero site and the all-lowest site (key 0) live together."""
    coords = corner_sites().to(device)
    table = tsl.HashTable(coords)
    assert len(table) == len(coords)
    assert torch.equal(table.lookup(coords).cpu(), torch.arange(len(coords)))
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table.lookup(coords[order.to(device)]).cpu(), order)


def test_08_misses_are_minus_one(device):
    coords = corner_sites()
    inner = coords.clone()
    inner[:, 1:] = inner[:, 1:].clamp(LOW + 1, HIGH - 1)
    inner[:, 3] += torch.where(inner[:, 3] > 0, -7, 7).int()
    rows = tsl.HashTable(coords.to(device)).lookup(inner.to(device))
    assert rows.dtype == torch.int64
    assert (rows == -1).all()


def test_08_a_neighbour_beyond_the_range_never_wraps():
    """HIGH + 1 along z must not become LOW of the next y, in a table or in a kernel map."""
    coords = coords_of((0, 0, 0, HIGH), (0, 0, 1, LOW), (0, HIGH, 5, 5), (1, LOW, 5, 5))
    x = harness.sparse(coords, 2)
    kernel_map = x.manager.submanifold(x.level, tsl.ConvGeometry.same(kernel_size=3, dilation=1))
    assert kernel_map.num_pairs == 4
    try:
        rows = tsl.HashTable(coords).lookup(coords + coords_of((0, 0, 0, 1)))
    except ValueError:
        return
    assert (rows == -1).all()


def test_08_geometry_at_the_border_of_the_range():
    """Submanifold and strided maps of clouds in the corners equal the oracle's."""
    block = clouds.box_coords((4, 4, 4), 30, seed=1)
    for corner in ((1023, HIGH - 3, HIGH - 3, HIGH - 3), (0, LOW, LOW, LOW)):
        coords = block + torch.tensor(corner, dtype=torch.int32)
        x = harness.sparse(coords, 2)
        same = x.manager.submanifold(x.level, tsl.ConvGeometry.same(kernel_size=3, dilation=2))
        expected = harness.oracle_relation(coords, coords, 3, 1, 2, 2)
        assert harness.relation(same, x.coords, x.coords) == expected
        geometry = tsl.ConvGeometry(kernel_size=3, stride=2, padding=1)
        coarse = x.manager.strided(x.level, geometry, rule="full")
        sites = oracle.coarse_sites(coords, 3, 2, 1, 1)
        assert clouds.site_set(coarse.coords) == set(sites)


def test_08_duplicates_keep_the_first_index(device):
    coords = clouds.signed_coords(50, batch_size=2)
    doubled = torch.cat([coords, coords.flip(0), coords[10:20]]).to(device)
    table = tsl.HashTable(doubled)
    assert len(table) == len(coords)
    assert torch.equal(table.lookup(coords.to(device)).cpu(), torch.arange(len(coords)))


def test_08_insert_returns_a_new_table(device):
    coords = clouds.signed_coords(60, seed=2).to(device)
    first = tsl.HashTable(coords[:40])
    second = first.insert(coords[20:])
    assert (len(first), len(second)) == (40, 60)
    assert torch.equal(
        second.lookup(coords).cpu(), torch.cat([torch.arange(40), torch.arange(60, 80)])
    )
    assert (first.lookup(coords[40:]) == -1).all()


def test_08_empty_build_and_empty_query(device):
    nothing, some = coords_of().to(device), clouds.signed_coords(9).to(device)
    assert len(tsl.HashTable(nothing)) == 0
    assert tsl.HashTable(nothing).lookup(some).tolist() == [-1] * 9
    assert tsl.HashTable(nothing).lookup(nothing).shape == (0,)
    assert tsl.HashTable(some).lookup(nothing).shape == (0,)
    assert len(tsl.HashTable(nothing).insert(some)) == 9


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 511, 512, 513])
def test_08_every_load_factor(device, num):
    """Sizes around the powers of two, where a table is fullest or has just been doubled."""
    coords = clouds.signed_coords(2 * num, low=-6, high=6, seed=num).to(device)
    table = tsl.HashTable(coords[:num])
    expected = torch.arange(2 * num)
    expected[num:] = -1
    assert torch.equal(table.lookup(coords).cpu(), expected)


def test_08_a_million_keys(device):
    """2^20 keys on a line, a plane and far apart: a weak hash would take minutes here."""
    n = torch.arange(2**18, dtype=torch.int32)
    zero = torch.zeros_like(n)
    line = torch.stack([zero, zero, zero, n + LOW], 1)
    plane = torch.stack([zero + 1, n % 512, n // 512, zero], 1)
    steps = torch.stack(
        [zero + 2, (n % 64) * 4096 + LOW, (n // 64 % 64) * 4096 + LOW, (n // 4096) * 4096 + LOW], 1
    )
    diagonal = torch.stack([zero + 3, n + LOW, n + LOW, n + LOW], 1)
    coords = torch.cat([line, plane, steps, diagonal]).to(device)
    assert len(coords) == 2**20
    table = tsl.HashTable(coords)
    assert len(table) == 2**20
    assert torch.equal(table.lookup(coords).cpu(), torch.arange(2**20))


def test_15_empty_through_everything(device):
    """N = 0 through convolutions, norm in train mode, pools, devoxelize, cat and dense."""
    x = tsl.SparseTensor(
        torch.zeros(0, 4, device=device),
        coords_of().to(device),
        batch_size=3,
        spatial_shape=(8, 8, 8),
    )
    norm = tsl.nn.BatchNorm(4).to(device).train()
    y = norm(tsl.nn.Conv3d(4, 4, 3).to(device)(x))
    assert y.shape == (0, 4)
    assert torch.isfinite(norm.running_mean).all()
    assert torch.isfinite(norm.running_var).all()
    down = tsl.nn.Conv3d(4, 4, 2, 2).to(device)(y)
    up = tsl.nn.Conv3d(4, 4, 2, 2, transposed=True).to(device)(down)
    assert up.shape == (0, 4)
    reach = tsl.nn.Conv3d(4, 5, 2, 2, transposed=True, generative=True).to(device)
    assert reach(down).shape == (0, 5)
    for pool in (tsl.nn.MaxPool3d(2), tsl.nn.AvgPool3d(2), tsl.nn.SumPool3d(2)):
        assert pool(y).shape == (0, 4)
    for pool in (tsl.nn.GlobalMaxPool(), tsl.nn.GlobalAvgPool(), tsl.nn.GlobalSumPool()):
        assert pool(y).tolist() == torch.zeros(3, 4).tolist()
    for layer in (tsl.nn.GroupNorm(2, 4), tsl.nn.InstanceNorm(4), tsl.nn.LayerNorm(4)):
        assert layer.to(device)(y).shape == (0, 4)
    points = tsl.PointTensor(torch.zeros(0, 4), torch.zeros(0, 4), batch_size=3).to(device)
    voxels, index, counts = tsl.voxelize(points, 0.1)
    assert (len(voxels), len(index), len(counts)) == (0, 0, 0)
    some = tsl.PointTensor(torch.zeros(5, 4), torch.zeros(5, 4), batch_size=3).to(device)
    for mode in ("nearest", "trilinear"):
        assert tsl.devoxelize(y, points, 0.1, mode=mode).shape == (0, 4)
        assert tsl.devoxelize(y, some, 0.1, mode=mode).tolist() == torch.zeros(5, 4).tolist()
    assert tsl.cat([y, up]).shape == (0, 8)
    assert (y + up).shape == (0, 4)
    assert y.dense().shape == (3, 4, 8, 8, 8)
    assert [len(part) for part in y.decompose()] == [0, 0, 0]
    y.feats.sum().backward()


def test_15_empty_inputs_have_zero_gradients(device):
    layer = tsl.nn.Conv3d(4, 4, 3).to(device)
    feats = torch.zeros(0, 4, device=device, requires_grad=True)
    layer(tsl.SparseTensor(feats, coords_of().to(device))).feats.sum().backward()
    assert feats.grad.shape == (0, 4)
    assert layer.weight.grad.abs().sum() == 0
    assert layer.bias.grad.abs().sum() == 0


PARAMETRIC = {
    "Conv3d": lambda: tsl.nn.Conv3d(4, 4, 3),
    "Linear": lambda: tsl.nn.Linear(4, 4),
    "BatchNorm": lambda: tsl.nn.BatchNorm(4),
    "SyncBatchNorm": lambda: tsl.nn.SyncBatchNorm(4),
    "LayerNorm": lambda: tsl.nn.LayerNorm(4),
    "GroupNorm": lambda: tsl.nn.GroupNorm(2, 4),
    "InstanceNorm": lambda: tsl.nn.InstanceNorm(4),
    "PReLU": lambda: tsl.nn.PReLU(4),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PARAMETRIC)
def test_15_every_parameter_has_a_zero_gradient(device, name, training):
    """Not None: distributed training waits for the gradients of every parameter."""
    layer = PARAMETRIC[name]().to(device).train(training)
    before = copy.deepcopy(layer.state_dict())
    layer(
        tsl.SparseTensor(torch.zeros(0, 4, device=device), coords_of().to(device))
    ).feats.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() == 0
    for statistic in ("running_mean", "running_var"):
        if statistic in before:
            assert torch.equal(layer.state_dict()[statistic], before[statistic])


def test_15_an_empty_level_of_a_bounded_grid(device):
    """A window larger than the grid leaves the extent 0, which is as legal as any other."""
    x = tsl.SparseTensor(
        torch.ones(1, 4, device=device), coords_of((0, 1, 1, 1)).to(device), spatial_shape=(2, 2, 2)
    )
    z = tsl.nn.Conv3d(4, 4, 3, stride=2).to(device)(x)
    assert z.spatial_shape == (0, 0, 0)
    assert z.dense().shape == (1, 4, 0, 0, 0)
    assert z.dense(shape=(0, 1, 2)).shape == (1, 4, 0, 1, 2)
    again = tsl.SparseTensor(z.F, z.C, z.stride, z.spatial_shape, z.batch_size)
    assert again.spatial_shape == (0, 0, 0)
    assert tsl.SparseTensor.from_dense(z.dense(), stride=2).spatial_shape == (0, 0, 0)
    assert len(tsl.nn.Conv3d(4, 4, 3).to(device)(again)) == 0


@pytest.mark.parametrize("site", [(0, 0, 0, 0), (0, -3, 5, -7), (1023, HIGH, LOW, 0)])
def test_15_one_voxel(device, site):
    """One voxel: the centre tap alone acts; eval-mode norm and every pool keep it."""
    x = tsl.SparseTensor(torch.tensor([[2.0, -1.0]], device=device), coords_of(site).to(device))
    weight = harness.random_weight(3, 2, 3, dtype=torch.float32).to(device)
    y = tsl.nn.BatchNorm(3).to(device).eval()(tsf.conv3d(x, weight, kernel_size=3))
    clouds.assert_close(y.feats, x.feats @ weight[13], tolerance=1e-4)
    for mode in ("max", "avg", "sum"):
        pooled = getattr(tsf, f"{mode}_pool3d")(x, kernel_size=2)
        assert pooled.coords.tolist() == [[site[0], *(c // 2 for c in site[1:])]]
        assert torch.equal(pooled.feats, x.feats)


@pytest.mark.parametrize("filled", [(0, 2), (1,), (2,), (0,)])
def test_15_empty_batch_elements(device, filled):
    """Missing first, middle and last samples keep their place and change nothing for the others."""
    coords = clouds.signed_coords(40, batch_size=3)
    keep = torch.tensor([int(b) in filled for b in coords[:, 0]])
    feats = clouds.random_values(len(coords), 4, dtype=torch.float32)
    x = tsl.SparseTensor(feats[keep].to(device), coords[keep].to(device), batch_size=3)
    full = tsl.SparseTensor(feats.to(device), coords.to(device), batch_size=3)
    layer = tsl.nn.Conv3d(4, 8, 3).to(device)
    assert torch.equal(layer(x).feats, layer(full).feats[keep.to(device)])
    means = tsf.global_avg_pool(x)
    assert means.shape == (3, 4)
    for batch, part in enumerate(x.decompose()):
        assert len(part) == (40 if batch in filled else 0)
        if batch not in filled:
            assert means[batch].abs().sum() == 0
    assert tsl.nn.InstanceNorm(4).to(device)(x).shape == x.shape


AMP = [None, torch.float16, torch.bfloat16]
PARAMS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("amp", AMP, ids=str)
@pytest.mark.parametrize("param", PARAMS, ids=str)
@pytest.mark.parametrize("kind", ["submanifold", "strided", "generative"])
def test_17_dtypes_are_those_of_dense_torch(device, training, amp, param, kind):
    """Output and gradient dtypes equal nn.functional.conv3d's; values are right to that dtype."""
    coords = clouds.box_coords((6, 6, 6), 60)
    options = {
        "submanifold": {},
        "strided": {"stride": 2, "padding": 1},
        "generative": {"stride": 2, "padding": 1, "transposed": True, "generative": True},
    }[kind]
    layer = tsl.nn.Conv3d(4, 8, 3, **options).to(device=device, dtype=param).train(training)
    stride = 2 if kind == "generative" else 1
    x = harness.sparse(coords, 4, dtype=param, device=device, stride=stride)
    x.feats.requires_grad_()
    context = torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None)
    dense_weight = torch.ones(8, 4, 3, 3, 3, dtype=param, device=device, requires_grad=True)
    with context:
        y = layer(x)
        dense = nnf.conv3d(torch.ones(1, 4, 5, 5, 5, dtype=param, device=device), dense_weight)
    assert y.dtype == dense.dtype
    dense.double().sum().backward()
    y.feats.double().square().sum().backward()
    assert layer.weight.grad.dtype == dense_weight.grad.dtype
    assert layer.bias.grad.dtype == param
    assert x.feats.grad.dtype == param
    exact = copy.deepcopy(layer).double()(x.detach().double())
    clouds.assert_close(y.feats, exact.feats, tolerance=clouds.TOLERANCE[y.dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_17_half_types_accumulate_in_float32(device, dtype):
    """A sum of 27 x 256 ones is 6,912; a half accumulator stops at 2,048, a bfloat16 one at 256."""
    coords = clouds.solid_coords((3, 3, 3)).to(device)
    x = tsl.SparseTensor(torch.ones(27, 256, dtype=dtype, device=device), coords)
    weight = torch.ones(27, 256, 1, dtype=dtype, device=device)
    y = tsf.conv3d(x, weight, kernel_size=3)
    centre = clouds.row_lookup(y.coords.cpu(), [[0, 1, 1, 1]])
    assert y.feats[centre].item() == 6912


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_17_autocast_reaches_pooling_and_voxels(device, dtype):
    """Half features pass through pools and voxelize and come out in their own dtype."""
    x = harness.sparse(clouds.signed_coords(60), 4, dtype=dtype, device=device)
    for mode in ("max", "avg", "sum"):
        assert getattr(tsf, f"{mode}_pool3d")(x, kernel_size=2).dtype == dtype
    points = tsl.PointTensor(x.feats, clouds.random_points(60).to(device))
    voxels = tsl.voxelize(points, 1.0).voxels
    assert voxels.dtype == dtype
    assert tsl.devoxelize(voxels, points, 1.0, mode="trilinear").dtype == dtype


def transported(x, how):
    if how == "pickle":
        return pickle.loads(pickle.dumps(x))
    if how == "deepcopy":
        return copy.deepcopy(x)
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save"])
def test_18_a_tensor_survives_transport(how):
    """Feats, coords, stride, shape and batch size arrive; the copy convolves and goes back up."""
    coords = clouds.box_coords((8, 8, 8), 60, batch_size=2)
    x = harness.sparse(coords, 4, dtype=torch.float32, spatial_shape=(8, 8, 8), batch_size=3)
    layer, down = tsl.nn.Conv3d(4, 4, 3), tsl.nn.Conv3d(4, 4, 2, 2)
    up = tsl.nn.Conv3d(4, 4, 2, 2, transposed=True)
    used = layer(x).detach()
    copied = transported(used, how)
    assert torch.equal(copied.feats, used.feats)
    assert torch.equal(copied.coords, used.coords)
    for name in ("stride", "spatial_shape", "batch_size", "shape", "dtype", "device"):
        assert getattr(copied, name) == getattr(used, name), name
    assert copied.feats.data_ptr() != used.feats.data_ptr()
    assert torch.equal(up(down(copied)).feats, up(down(used)).feats)


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_18_a_point_tensor_survives_transport(how):
    points = tsl.PointTensor(clouds.random_values(9, 2), clouds.random_points(9, batch_size=2))
    copied = transported(points, how)
    assert torch.equal(copied.feats, points.feats)
    assert torch.equal(copied.coords, points.coords)
    assert copied.batch_size == points.batch_size


def test_18_state_dict_round_trip():
    """Names are weight and bias; map_location and a second network give equal outputs."""

    def network():
        return tsl.nn.Sequential(tsl.nn.Conv3d(4, 8, 3), tsl.nn.BatchNorm(8), tsl.nn.ReLU())

    net, other = network(), network()
    x = harness.sparse(clouds.surface_coords(12), 4, dtype=torch.float32)
    net(x)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, map_location="cpu", weights_only=True)
    assert {"0.weight", "0.bias", "1.running_mean"} <= set(state)
    other.load_state_dict(state)
    assert torch.equal(net.eval()(x).feats, other.eval()(x).feats)
    assert torch.equal(copy.deepcopy(net)(x).feats, net(x).feats)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x).feats, net(x).feats)


def test_23_shapes_beyond_int32_are_computed_exactly():
    """3.9 million voxels x 27 pairs x 64 channels in a meta calculation: 6.7e9 elements."""
    with FakeTensorMode():
        feats = torch.empty(3_900_000, 64)
        index = torch.empty(3_900_000 * 27, 1, dtype=torch.int64)
        out = torch.ops.tsl.interpolate(feats, index, torch.empty(3_900_000 * 27, 1))
    assert out.shape == (105_300_000, 64)
    assert out.numel() > 2**31


@pytest.mark.slow
def test_23_rows_beyond_two_to_the_31_elements_are_read():
    """Only a few pages of a 9 GB table are ever touched: the offset of the last row is 64-bit."""
    rows, channels = 2**25 + 64, 65
    try:
        feats = torch.empty(rows, channels)
    except RuntimeError:
        pytest.skip("the machine refuses to reserve 9 GB of address space")
    wanted = torch.tensor([rows - 1, 0, 2**25 - 3])
    feats[wanted] = torch.arange(1.0, 4.0).unsqueeze(1)
    out = torch.ops.tsl.interpolate(feats, wanted.reshape(-1, 1), torch.ones(3, 1))
    assert out[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert out[:, -1].tolist() == [1.0, 2.0, 3.0]


def test_23_pair_counts_are_64_bit():
    """The arrays that count pairs are int64, so 2^31 pairs can be expressed."""
    x = harness.sparse(clouds.surface_coords(12), 2)
    kernel_map = x.manager.submanifold(x.level, tsl.ConvGeometry.same(kernel_size=3, dilation=1))
    assert kernel_map.tap_ptr.dtype == torch.int64
    assert kernel_map.neighbors.ptr.dtype == torch.int64
    assert kernel_map.neighbors.ptr[-1] == kernel_map.num_pairs == kernel_map.tap_ptr[-1]
    assert np.iinfo(np.int32).max < 105_300_000 * 64
