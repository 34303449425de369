# SPDX-License-Identifier: MIT
"""Grids around clouds, PVConv, SPVConv, set abstraction and feature propagation."""

from __future__ import annotations

import clouds
import numpy as np
import point_oracle
import pytest
import torch
from test_models import settle
from torch import nn
from torch.autograd import gradcheck

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn
from torchsparse_lite import ops
from torchsparse_lite.point_grid import PointGrid, trilinear_weights


def random_cloud(count=60, channels=4, *, batch_size=2, seed=0, dtype=torch.float64, extent=1.5):
    coords = clouds.random_points(count, batch_size=batch_size, seed=seed, extent=extent)
    feats = clouds.random_values(count, channels, seed=seed, dtype=dtype)
    return tsl.PointTensor(feats, coords.to(dtype), batch_size)


def only(points, cloud):
    """One cloud of a batch by itself, and its rows."""
    rows = (points.batch == cloud).nonzero().flatten()
    return tsl.PointTensor(points.feats[rows], points.xyz[rows]), rows


# ---- voxels around points


@pytest.mark.parametrize("anchor", ["corner", "center"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_gathering_is_differentiable_in_the_points(anchor, renormalize):
    """Their coordinates move the weights; the voxels stay the same ones."""
    points = random_cloud(20, 2)
    sites = PointGrid(points, 0.4).sites
    cells = sites.replace_feats(clouds.random_values(len(sites), 3))

    def read(xyz):
        moved = tsl.PointTensor(points.feats, torch.cat([points.coords[:, :1], xyz], 1), 2)
        grid = PointGrid(moved, 0.4, precision=torch.float64)
        return grid.gather(cells, anchor=anchor, renormalize=renormalize)

    xyz = points.xyz.clone().requires_grad_()
    torch.testing.assert_close(read(xyz), read(xyz.detach()), rtol=1e-12, atol=1e-14)
    assert gradcheck(read, xyz)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corners_have_the_weights_of_their_definition(dtype):
    """Those that gradients go through, with voxels missing; the rows are at the corners."""
    points = random_cloud(300, 1, dtype=dtype)
    sites = PointGrid(points, 0.3).sites
    few = sites[sites.coords[:, 1] % 3 != 0].level
    cells = points.coords.int()
    position = (points.xyz - 0.1) / 0.15
    cells[:, 1:] = (position / 2).floor().int()
    offset = position / 2 - cells[:, 1:] - 0.5
    where = {"origin": [0.1] * 3, "voxel_size": [0.15] * 3, "stride": [2] * 3, "anchor": 0.5}
    for renormalize in (True, False):
        index, weight = ops.corners(few.table, points.xyz, cells, renormalize=renormalize, **where)
        expected = trilinear_weights(offset, index, renormalize=renormalize)
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
        low = cells.clone()
        low[:, 1:] -= (offset < 0).int()
        for column, corner in enumerate(np.ndindex(2, 2, 2)):
            rows = ops.hash_lookup(few.table, low + torch.tensor([0, *corner], dtype=torch.int32))
            assert rows.equal(index[:, column])
    assert (index < 0).any()
    assert (index >= 0).any()


# ---- the grid around a cloud


@pytest.mark.parametrize("resolution", [1, 2, 5, 8])
@pytest.mark.parametrize("normalize", [True, False])
def test_grid_is_the_oracles(resolution, normalize):
    points = random_cloud()
    xyz, batch = points.xyz.numpy(), points.batch.tolist()
    grid = tsl.CloudGrid(points, resolution, normalize=normalize)
    position = point_oracle.grid_positions(xyz, batch, resolution, normalize=normalize)
    means = point_oracle.voxel_means(position, batch, points.feats.numpy(), resolution)
    expected = np.zeros((2, 4, resolution, resolution, resolution))
    for (cloud, x, y, z), mean in means.items():
        expected[cloud, :, x, y, z] = mean
    clouds.assert_close(grid.scatter(points.feats).dense(), expected, tolerance=1e-12)
    cells = grid.sites.replace_feats(clouds.random_values(len(grid.sites), 3, seed=5))
    back = point_oracle.trilinear(position, batch, cells.dense().numpy())
    clouds.assert_close(grid.gather(cells), back, tolerance=1e-12)


def test_grid_by_hand():
    """Mean 0, radius 2: in a grid of 4 the points are at 0, 2, 2.5 and 3, where the border is."""
    coords = torch.tensor([[-2.0, 0, 0], [0, 0, 0], [0.5, 0, 0], [1.5, 0, 0]], dtype=torch.float64)
    points = tsl.PointTensor(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), coords)
    grid = tsl.CloudGrid(points, 4)
    cells = grid.scatter(points.feats).dense()[0, 0, :, 2, 2]
    assert cells.tolist() == [1.0, 0.0, 3.0, 8.0]  # 2.5 is rounded to even
    ramp = grid.sites.replace_feats(grid.sites.coords[:, 1:2].double())
    assert grid.gather(ramp).flatten().tolist() == [0.0, 2.0, 2.5, 3.0]
    unscaled = tsl.CloudGrid(points, 4, normalize=False)  # (x + 1) / 2 * 4
    assert unscaled.gather(ramp).flatten().tolist() == [0.0, 2.0, 3.0, 3.0]


def test_a_cloud_of_one_position_is_in_the_middle():
    for coords in (torch.tensor([[3.0, 4, 5]]), torch.full((4, 3), 0.1)):
        points = tsl.PointTensor(torch.ones(len(coords), 1), coords)
        cells = tsl.CloudGrid(points, 4).scatter(points.feats).dense()
        assert cells.sum() == 1
        assert cells[0, 0, 2, 2, 2] == 1


def test_grid_is_differentiable():
    points = random_cloud(20, 2)
    grid = tsl.CloudGrid(points, 3)
    assert gradcheck(lambda f: grid.scatter(f).feats, points.feats.clone().requires_grad_())
    cells = clouds.random_values(len(grid.sites), 2).requires_grad_()
    assert gradcheck(lambda f: grid.gather(grid.sites.replace_feats(f)), cells)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grid_is_bitwise_for_any_thread_count_and_batch(threads, dtype):
    points = random_cloud(5000, batch_size=3, dtype=dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        feats = points.feats.clone().requires_grad_()
        grid = tsl.CloudGrid(points, 12)
        cells = grid.scatter(feats)
        back = grid.gather(cells)
        (grad,) = torch.autograd.grad((back * points.feats).sum(), feats)
        results.append((cells.feats, back, grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for cloud in range(3):
        alone, rows = only(points, cloud)
        own = tsl.CloudGrid(alone, 12).scatter(alone.feats)
        assert torch.equal(own.feats, cells.feats[cells.coords[:, 0] == cloud])
        assert torch.equal(tsl.CloudGrid(alone, 12).gather(own), back[rows])


def test_cells_are_all_there_in_morton_order():
    """So neighbours are found by descent; a strided layer is the dense one, borders included."""
    points = random_cloud(channels=2)
    sites = tsl.CloudGrid(points, 5).sites
    assert sites.shape == (2 * 125, 0)
    assert len(torch.unique(sites.coords, dim=0)) == 250
    assert sites.coords[:, 1:].amin() == 0
    assert sites.coords[:, 1:].amax() == 4
    assert sites.level.is_morton
    assert tsl.SparseTensor(torch.ones(250, 1), sites.coords).level.is_morton
    x = sites.replace_feats(clouds.random_values(250, 2))
    layer = spnn.Conv3d(2, 3, 3, 2, padding=1, bias=False).double()
    dense = layer.weight.view(3, 3, 3, 2, 3).permute(4, 3, 0, 1, 2)
    expected = nn.functional.conv3d(x.dense(), dense, stride=2, padding=1)
    clouds.assert_close(layer(x).dense(), expected, tolerance=1e-12)


def test_empty_clouds_have_no_grid():
    points = tsl.PointTensor(torch.ones(2, 3), torch.tensor([[1.0, 0, 0, 0], [4, 1, 1, 1]]), 6)
    cells = tsl.CloudGrid(points, 4).scatter(points.feats)
    assert torch.unique(cells.coords[:, 0]).tolist() == [1, 4]
    assert cells.dense().shape == (6, 3, 4, 4, 4)
    nothing = tsl.PointTensor(torch.ones(0, 3), torch.ones(0, 4), 2)
    grid = tsl.CloudGrid(nothing, 4)
    assert grid.scatter(nothing.feats).shape == (0, 3)
    assert grid.gather(grid.sites.replace_feats(torch.ones(0, 5))).shape == (0, 5)


# ---- PVConv


def plain_mlp(layers, feats):
    """Linear, norm and ReLU in torch's own words."""
    linear, norm, _ = layers
    plain = nn.BatchNorm1d(norm.num_features).to(feats.dtype).eval()
    plain.load_state_dict(norm.state_dict())
    return plain(nn.functional.linear(feats, linear.weight, linear.bias)).relu()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_se", [True, False])
def test_pvconv_is_the_published_order_of_operations(normalize, with_se):
    """Spelt out with the oracle's grid and torch's functions."""
    points = random_cloud()
    layer = spnn.PVConv(4, 16, resolution=6, normalize=normalize, with_se=with_se)
    layer = settle(layer).double()
    batch = points.batch.tolist()
    position = point_oracle.grid_positions(points.xyz.numpy(), batch, 6, normalize=normalize)
    grid = torch.zeros(2, 4, 6, 6, 6, dtype=torch.float64)
    for (cloud, x, y, z), mean in point_oracle.voxel_means(
        position, batch, points.feats.numpy(), 6
    ).items():
        grid[cloud, :, x, y, z] = torch.from_numpy(mean)
    for conv, norm in (layer.voxels[:2], layer.voxels[3:5]):
        assert norm.eps == 1e-4
        dense = conv.weight.view(3, 3, 3, *conv.weight.shape[1:]).permute(4, 3, 0, 1, 2)
        grid = nn.functional.conv3d(grid, dense, conv.bias, padding=1)
        shape = (1, -1, 1, 1, 1)
        grid = (grid - norm.running_mean.view(shape)) / (norm.running_var + 1e-4).sqrt().view(shape)
        grid = grid * norm.weight.view(shape) + norm.bias.view(shape)
        grid = torch.where(grid > 0, grid, 0.1 * grid)
    if with_se:
        narrow, wide = layer.voxels[6].scale[0].weight, layer.voxels[6].scale[2].weight
        assert narrow.shape == (2, 16)
        scale = torch.sigmoid((grid.mean((2, 3, 4)) @ narrow.T).relu() @ wide.T)
        grid = grid * scale[:, :, None, None, None]
    coarse = torch.from_numpy(point_oracle.trilinear(position, batch, grid.detach().numpy()))
    expected = coarse + plain_mlp(layer.points, points.feats)
    found = layer(points)
    assert isinstance(found, tsl.PointTensor)
    assert found.coords is points.coords
    clouds.assert_close(found.feats, expected, tolerance=1e-10)
    shared = tsl.CloudGrid(points, 6, normalize=normalize)
    assert torch.equal(layer(points, shared).feats, found.feats)


def test_pvconv_is_differentiable():
    points = random_cloud(12, 2)
    layer = spnn.PVConv(2, 3, resolution=3, with_se=True).double()
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(feats, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (points.replace_feats(feats),)).feats

    leaf = points.feats.clone().requires_grad_()
    assert gradcheck(run, (leaf, *values), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pvconv_does_not_mix_clouds(dtype):
    """In evaluation mode, to the last bit; the order of points only rounds their means."""
    points = random_cloud(300, batch_size=3, dtype=dtype)
    layer = settle(spnn.PVConv(4, 8, resolution=8, with_se=True)).to(dtype)
    with torch.no_grad():
        whole = layer(points).feats
        for cloud in range(3):
            alone, rows = only(points, cloud)
            assert torch.equal(whole[rows], layer(alone).feats)
        shuffle = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
        shuffled = tsl.PointTensor(points.feats[shuffle], points.coords[shuffle], 3)
        tolerance = clouds.TOLERANCE[dtype]
        clouds.assert_close(layer(shuffled).feats, whole[shuffle], tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pvconv_is_bitwise_for_any_thread_count(threads, dtype):
    """Forward and backward, in training."""
    points = random_cloud(3000, 8, dtype=torch.float32).to(dtype)
    layer = spnn.PVConv(8, 24, resolution=12, with_se=True).to(dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        feats = points.feats.clone().requires_grad_()
        out = layer(points.replace_feats(feats)).feats
        leaves = (feats, *layer.parameters())
        results.append((out, *torch.autograd.grad((out * out.detach()).sum(), leaves)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_of_a_whole_cloud_keep_their_digits():
    """Of squeeze-and-excitation: a hundred thousand terms, summed in double."""
    count = 100_000
    scale = torch.ones(1, 4, requires_grad=True)
    index, weight = torch.zeros(count, 1, dtype=torch.int64), torch.ones(count, 1)
    terms = clouds.random_values(count, 4, dtype=torch.float32) + 1
    (grad,) = torch.autograd.grad((tsl.ops.interpolate(scale, index, weight) * terms).sum(), scale)
    torch.testing.assert_close(grad[0], terms.double().sum(0).float(), rtol=1e-7, atol=0)


def test_fused_pvconv_computes_the_same():
    points = random_cloud()
    layer = settle(spnn.PVConv(4, 6, resolution=6, with_se=True)).double()
    fused = spnn.fuse(layer)
    assert [type(part).__name__ for part in fused.voxels][:2] == ["Conv3d", "LeakyReLU"]
    clouds.assert_close(fused(points).feats, layer(points).feats, tolerance=1e-10)


@pytest.mark.parametrize("make", ["PVConv", "SPVConv"])
def test_layers_of_points_train_without_points(make):
    """Zero gradients, not none; running statistics stay."""
    if make == "PVConv":
        layer = spnn.PVConv(3, 8, resolution=4, with_se=True)
    else:
        layer = spnn.SPVConv(3, 8, voxel_size=0.1)
    before = {name: b.clone() for name, b in layer.named_buffers() if "running" in name}
    y = layer(tsl.PointTensor(torch.ones(0, 3), torch.ones(0, 4), 2))
    assert y.shape == (0, 8)
    y.feats.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert all(torch.equal(b, dict(layer.named_buffers())[name]) for name, b in before.items())
    one = tsl.PointTensor(torch.ones(1, 3), torch.ones(1, 4))
    assert layer.eval()(one).feats.isfinite().all()


@pytest.mark.parametrize("resolution", [4, 9])
def test_pvconv_learns_and_prints(resolution):
    layer = spnn.PVConv(4, 4, 5, resolution=resolution)
    layer(random_cloud(dtype=torch.float32)).feats.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert f"resolution={resolution}, normalize=True" in repr(layer)


# ---- SPVConv


def test_spvconv_on_voxel_corners_is_the_released_formula():
    """One point at the corner of every voxel: convolution plus linear layer, nothing between."""
    sites = clouds.surface_coords(12, batch_size=2)
    feats = clouds.random_values(len(sites), 4)
    layer = settle(spnn.SPVConv(4, 6, voxel_size=1.0)).double()
    voxels = layer.voxels(tsl.SparseTensor(feats, sites)).feats
    expected = voxels + plain_mlp(layer.points, feats)
    found = layer(tsl.PointTensor(feats, sites.double()))
    clouds.assert_close(found.feats, expected, tolerance=1e-12)


def test_spvconv_on_raw_points_is_mean_convolution_and_interpolation():
    points = random_cloud(200, dtype=torch.float64)
    layer = settle(spnn.SPVConv(4, 6, voxel_size=0.4)).double()
    x = layer.voxels(tsl.voxelize(points, 0.4).voxels)
    expected = tsl.devoxelize(x, points, 0.4) + plain_mlp(layer.points, points.feats)
    clouds.assert_close(layer(points).feats, expected, tolerance=1e-12)


def test_spvconvs_share_a_grid_and_its_maps():
    points = random_cloud(200, dtype=torch.float32)
    layers = [settle(spnn.SPVConv(4, 4, voxel_size=0.4)) for _ in range(2)]
    grid = tsl.PointGrid(points, 0.4)
    y, apart = points, points
    for layer in layers:
        y, apart = layer(y, grid), layer(apart)
    assert torch.equal(y.feats, apart.feats)
    assert repr(grid.sites.manager).endswith("1 kernel maps)")
    assert grid.sites.shape == (len(tsl.voxelize(points, 0.4).voxels), 0)


def test_spvconv_takes_any_branch():
    """At another stride, and of another depth."""
    branch = spnn.Sequential(spnn.Conv3d(4, 8, 2, stride=2), spnn.ReLU(), spnn.Conv3d(8, 6))
    layer = spnn.SPVConv(4, 6, voxel_size=0.2, voxels=branch)
    assert layer.voxels is branch
    y = layer(random_cloud(dtype=torch.float32))
    assert y.shape == (60, 6)
    y.feats.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert "voxel_size=(0.2, 0.2, 0.2)" in repr(layer)


def test_spvconv_is_differentiable_and_bitwise(threads):
    points = random_cloud(15, 2)
    layer = settle(spnn.SPVConv(2, 3, voxel_size=0.5)).double()
    leaf = points.feats.clone().requires_grad_()
    assert gradcheck(lambda f: layer(points.replace_feats(f)).feats, leaf)
    points = random_cloud(4000, 8, dtype=torch.float32)
    layer = spnn.SPVConv(8, 16, voxel_size=0.1)
    results = []
    for count in (1, 2):
        threads(count)
        feats = points.feats.clone().requires_grad_()
        out = layer(points.replace_feats(feats)).feats
        leaves = (feats, *layer.parameters())
        results.append((out, *torch.autograd.grad((out * out.detach()).sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fused_spvconv_computes_the_same():
    points = random_cloud()
    layer = settle(spnn.SPVConv(4, 6, voxel_size=0.4)).double()
    fused = spnn.fuse(layer)
    assert len(fused.voxels) == 1
    clouds.assert_close(fused(points).feats, layer(points).feats, tolerance=1e-10)


# ---- sets of points


def test_set_abstraction_is_spelt_out():
    points = random_cloud(80, 3)
    layer = spnn.SetAbstraction(3, (5, 7), num_centers=6, radius=1.0, max_neighbors=4)
    layer = settle(layer).double()
    found = layer(points)
    xyz, batch = points.xyz.numpy(), points.batch.tolist()
    rows = point_oracle.furthest(xyz, batch, [6, 6])
    assert torch.equal(found.coords, points.coords[rows])
    own = [batch[row] for row in rows]
    index = point_oracle.ball(xyz, batch, xyz[rows], own, radius=1.0, count=4)
    for row, neighbors, feats in zip(rows, index, found.feats, strict=True):
        offset = points.xyz[neighbors] - points.xyz[row]
        seen = torch.cat([offset, points.feats[neighbors]], dim=1)
        for step in range(0, 6, 3):
            seen = plain_mlp(layer.mlp[step : step + 3], seen)
        clouds.assert_close(feats, seen.amax(0), tolerance=1e-10)
    assert "num_centers=6, radius=1.0, max_neighbors=4" in repr(layer)


def test_feature_propagation_is_spelt_out():
    coarse, fine = random_cloud(20, 3), random_cloud(50, 2, seed=1)
    layer = settle(spnn.FeaturePropagation(5, (6, 4))).double()
    mean = point_oracle.interpolated(
        coarse.xyz.numpy(),
        coarse.batch.tolist(),
        coarse.feats.numpy(),
        fine.xyz.numpy(),
        fine.batch.tolist(),
    )
    feats = torch.cat([torch.from_numpy(mean), fine.feats], dim=1)
    for step in range(0, 6, 3):
        feats = plain_mlp(layer.mlp[step : step + 3], feats)
    found = layer(coarse, fine)
    assert found.coords is fine.coords
    clouds.assert_close(found.feats, feats, tolerance=1e-10)


def test_sets_of_points_are_differentiable():
    points = random_cloud(24, 2)
    down = spnn.SetAbstraction(2, (4,), num_centers=0.25, radius=1.5, max_neighbors=3)
    down, up = settle(down).double(), settle(spnn.FeaturePropagation(6, (3,))).double()

    def run(feats):
        fine = points.replace_feats(feats)
        return up(down(fine), fine).feats

    assert gradcheck(run, points.feats.clone().requires_grad_())


def test_sets_of_points_without_points():
    nothing = tsl.PointTensor(torch.ones(0, 2), torch.ones(0, 4), 2)
    down = spnn.SetAbstraction(2, (4,), num_centers=8, radius=1.0, max_neighbors=3)
    up = spnn.FeaturePropagation(6, (3,))
    y = up(down(nothing), nothing)
    assert y.shape == (0, 3)
    y.feats.sum().backward()
    assert all(p.grad is not None for p in (*down.parameters(), *up.parameters()))
