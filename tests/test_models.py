# SPDX-License-Identifier: MIT
"""Networks: published sizes, the point branch, fusing, profiles."""

from __future__ import annotations

import clouds
import harness
import numpy as np
import oracle
import pytest
import torch
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn
from torchsparse_lite.point_grid import PointGrid

PARAMETERS_M = {0.5: 5.44, 0.64: 8.77, 1.0: 21.72}
GMACS = {0.5: 34.5, 0.64: 55.5, 1.0: 137.7}
TINY = models.UNetShape.of((8, 8, 12, 12, 8), (1, 2, 1, 1), stem_depth=1)


def settle(model):
    """Give norms statistics and parameters that are not those of a fresh layer; evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for value, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                value.copy_(torch.rand(value.shape, generator=generator) + low)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize("width", PARAMETERS_M)
def test_published_parameter_counts(width):
    model = models.minkunet(width=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == PARAMETERS_M[width]


@pytest.mark.data
@pytest.mark.parametrize("width", GMACS)
def test_published_multiplications(data_dir, width):
    """SPVNAS' sample scan, voxelised as SPVNAS does: rounded, the smallest coordinate at zero."""
    path = data_dir / "semantickitti/sequences/08/velodyne/000000.bin"
    xyz = np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]
    cells = torch.from_numpy(np.round(xyz / np.float32(0.05)).astype(np.int32))
    cells = nn.functional.pad(cells - cells.amin(0), (1, 0))
    sites = tsl.ops.unique_coords(cells)[0]
    assert len(sites) == 94_625
    model = models.minkunet(width=width)
    result = models.profile(model, tsl.SparseTensor(torch.ones(len(sites), 4), sites))
    assert round(result.macs / 1e9, 1) == GMACS[width]
    assert result.parameters == sum(p.numel() for p in model.parameters())


def test_the_42_of_minkunet42_are_its_convolutions():
    model = models.minkunet("42", width=0.125)
    convs = [m for m in model.modules() if isinstance(m, spnn.Conv3d)]
    assert sum(conv.kernel_size != (1, 1, 1) for conv in convs) == 42


def test_profile_sees_a_target_however_it_is_given():
    sites = clouds.surface_coords(8)
    x = tsl.SparseTensor(torch.ones(len(sites), 2), sites)
    target = tsl.SparseTensor(torch.ones(3, 1), sites[:3])

    class Net(nn.Module):
        def __init__(self, *, by_name):
            super().__init__()
            self.conv = spnn.Conv3d(2, 4, submanifold=False, padding=1)
            self.by_name = by_name

        def forward(self, x):
            return self.conv(x, target=target) if self.by_name else self.conv(x, target)

    (one,), (other,) = (models.profile(Net(by_name=n), x).layers for n in (True, False))
    assert one == other
    assert one.num_out == 3
    assert one.pairs < models.profile(spnn.Conv3d(2, 4), x).layers[0].pairs


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match=r"UNetShape.preset: name must be one of 18, 34, 42"):
        models.minkunet("50")
    with pytest.raises(ValueError, match="as many stages as down"):
        models.UNetShape((8,), (models.Stage(8),), ())
    with pytest.raises(ValueError, match="one number per block"):
        models.Stage(8, 2, mids=(4,))


def test_widths_and_depths_are_data():
    """Transitions, block widths and a stage without blocks, forward and backward."""
    shape = models.UNetShape(
        (6, 10),
        (models.Stage(12, 1, transition=7, mids=(5,)), models.Stage(9, 0)),
        (models.Stage(8, 0, transition=11), models.Stage(6, 3, mids=(4, 5, 6))),
    )
    model = models.MinkUNet(3, 5, shape)
    x = harness.sparse(clouds.surface_coords(24), 3, dtype=torch.float32)
    y = model(x)
    assert y.level is x.level
    assert y.shape == (len(x), 5)
    y.feats.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_networks_compute_the_same(dtype):
    model = settle(models.MinkUNet(4, 7, TINY)).to(dtype)
    x = harness.sparse(clouds.surface_coords(20), 4, dtype=dtype)
    fused = spnn.fuse(model)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in fused.modules())
    with torch.no_grad():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        clouds.assert_close(fused(x).feats, model(x).feats, tolerance=tolerance)


def points_of(count=400, channels=4):
    coords = clouds.random_points(count, extent=2.0, batch_size=2)
    return tsl.PointTensor(clouds.random_values(len(coords), channels, dtype=torch.float32), coords)


def test_spvcnn_scores_points_and_learns():
    model = models.SPVCNN(4, 6, TINY, voxel_size=0.1)
    points = points_of()
    scores = model(points)
    assert scores.shape == (len(points), 6)
    scores.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_norm_in_front_brings_inputs_to_one_scale():
    """In training the scores do not depend on the units of the features."""
    points = points_of()
    other = points.replace_feats(points.feats * torch.tensor([100.0, 20.0, 1.0, 7.0]) + 3.0)
    for normalize in (True, False):
        torch.manual_seed(0)
        model = models.SPVCNN(4, 3, TINY, voxel_size=0.1, dropout=0.0, normalize=normalize)
        is_same = torch.allclose(model(points), model(other), atol=1e-2)
        assert is_same is normalize


def test_spvcnn_is_the_u_net_plus_three_layers():
    model = models.spvcnn(width=0.5)
    unet = models.minkunet(width=0.5)
    own = {name: p.shape for name, p in model.unet.named_parameters()}
    assert own == {n: p.shape for n, p in unet.named_parameters() if "classifier" not in n}
    assert model.meetings == (0, 4, 6, 8)
    assert len(model.points) == 3


def test_spvcnn_on_voxel_corners_is_the_released_order_of_operations():
    """Spelt out step by step with plain indexing, as in SPVNAS' forward."""
    model = settle(models.SPVCNN(4, 3, TINY, voxel_size=1.0)).double()
    sites = clouds.surface_coords(16)
    sites = sites[clouds.morton_order(sites)]
    feats = clouds.random_values(len(sites), 4)
    points = tsl.PointTensor(feats, sites.double())
    unet, (to_middle, to_end) = model.unet, model.points.values()
    x0 = unet.stem(tsl.SparseTensor(feats, sites))
    z0 = x0.feats  # at voxel corners, stride 1 is the identity
    x1 = unet.down[0](x0)
    x2 = unet.down[1](x1)
    z1 = trilinear(x2, sites, 4) + layer(to_middle, z0)
    y1 = unet.up[0](mean_into(x2, z1, sites, 4), x1)
    y2 = unet.up[1](y1, x0)
    z2 = y2.feats + layer(to_end, z1)
    expected = nn.functional.linear(z2, model.classifier.weight, model.classifier.bias)
    clouds.assert_close(model(points), expected, tolerance=1e-10)


def layer(sequential, z):
    linear, norm, _ = sequential
    plain = nn.BatchNorm1d(norm.num_features).double().eval()
    plain.load_state_dict(norm.state_dict())
    return plain(nn.functional.linear(z, linear.weight, linear.bias)).relu()


def mean_into(x, z, sites, stride):
    cells = sites.clone()
    cells[:, 1:] = cells[:, 1:].div(stride, rounding_mode="floor")
    rows = clouds.row_lookup(x.coords, cells)
    total = torch.zeros(len(x), z.shape[1], dtype=z.dtype).index_add(0, rows, z)
    return x.replace_feats(total / torch.bincount(rows, minlength=len(x)).unsqueeze(1))


def trilinear(x, sites, stride):
    """Eight corners, missing ones left out and the weights made to sum to one."""
    at = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    out = []
    for batch, *site in sites.tolist():
        total, weights = torch.zeros(x.num_channels, dtype=torch.float64), 0.0
        for corner in oracle.taps_of(2):
            weight, cell = 1.0, [batch]
            for value, upper in zip(site, corner, strict=True):
                low, fraction = divmod(value, stride)
                fraction /= stride
                cell.append(low + upper)
                weight *= fraction if upper else 1 - fraction
            row = at.get(tuple(cell))
            if row is not None and weight:
                total, weights = total + weight * x.feats[row], weights + weight
        out.append(total / weights)
    return torch.stack(out)


def test_meetings_are_data():
    points = points_of()
    only_last = models.SPVCNN(4, 3, TINY, voxel_size=0.1, meetings=(4,))
    assert len(only_last.points) == 0
    assert only_last(points).shape == (len(points), 3)
    for wrong in ((), (0,), (4, 0), (0, 0, 4), (0, 4, 5)):
        with pytest.raises(ValueError, match="SPVCNN: meetings must be stages from 0 to 4"):
            models.SPVCNN(4, 3, TINY, meetings=wrong)
    everywhere = models.SPVCNN(4, 3, TINY, voxel_size=0.1, meetings=range(5))
    assert everywhere(points).shape == (len(points), 3)


def test_on_points_gives_every_point_its_voxel():
    unet = models.MinkUNet(4, 3, TINY).eval()
    points = points_of()
    voxels, rows, _ = tsl.voxelize(points, 0.1)
    with torch.no_grad():
        assert torch.equal(models.OnPoints(unet, 0.1)(points), unet(voxels).feats[rows])


def test_a_grid_gathers_and_scatters_as_the_functions_do():
    points = points_of()
    grid = PointGrid(points, 0.1)
    voxels, rows, _ = grid.voxelize()
    coarse = spnn.Conv3d(4, 5, 2, 2)(voxels)
    for x in (voxels, coarse):
        for mode in ("nearest", "trilinear"):
            expected = tsl.devoxelize(x, points, 0.1, mode=mode)
            assert torch.equal(grid.gather(x, mode=mode), expected)
            assert torch.equal(grid.gather(x, mode=mode), expected)
    assert torch.equal(grid.scatter(points.feats, voxels).feats, voxels.feats)
    cell = grid.rows(coarse.level)
    total = torch.zeros(len(coarse), 4, dtype=torch.float64).index_add(
        0, cell, points.feats.double()
    )
    mean = total / torch.bincount(cell, minlength=len(coarse)).unsqueeze(1)
    clouds.assert_close(grid.scatter(points.feats, coarse).feats, mean, tolerance=1e-6)
    assert torch.equal(rows, grid.rows(voxels.level))


def test_points_outside_the_voxels_are_left_out():
    points = points_of(100)
    some = tsl.PointTensor(points.feats[:40], points.coords[:40], points.batch_size)
    voxels = tsl.voxelize(some, 0.1).voxels
    grid = PointGrid(points, 0.1)
    rows = grid.rows(voxels.level)
    assert (rows[:40] >= 0).all()
    assert (rows < 0).any()
    inside = rows >= 0
    filled = grid.scatter(points.feats, voxels).feats
    only = tsl.PointTensor(points.feats[inside], points.coords[inside], points.batch_size)
    assert torch.equal(filled, tsl.voxelize(only, 0.1).voxels.feats)


def test_profile_counts_what_a_hand_counts():
    coords = clouds.solid_coords((3, 3, 1))
    x = tsl.SparseTensor(torch.ones(9, 2), coords)
    net = spnn.Sequential(spnn.Conv3d(2, 4, 3, groups=2), spnn.ReLU(), spnn.Linear(4, 3))
    net.train()
    result = models.profile(net, x)
    assert net.training
    conv, linear = result.layers
    assert conv.pairs == 49  # a 3x3 plane: 9 + 4 * 6 + 4 * 4 pairs
    assert conv.macs == 49 * 2 * 4 // 2
    assert (linear.pairs, linear.macs) == (9, 9 * 4 * 3)
    assert result.macs == conv.macs + linear.macs
    assert conv.bytes == 4 * (9 * 2 + 9 * 4 + 27 * 1 * 4 + 4)
    assert result.parameters == 27 * 4 + 4 + 12 + 3
    assert "total" in str(result)


def test_layers_for_rows_take_points_too():
    points = points_of(50)
    layers = spnn.Sequential(spnn.Linear(4, 6), spnn.BatchNorm(6), spnn.ReLU(), spnn.Dropout(0.0))
    y = layers(points)
    assert isinstance(y, tsl.PointTensor)
    plain = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    mixed = spnn.Sequential(*plain)
    mixed.load_state_dict(layers.state_dict())
    clouds.assert_close(mixed(points).feats, y.feats, tolerance=1e-5)
    plain.load_state_dict(layers.state_dict())
    clouds.assert_close(y.feats, plain(points.feats), tolerance=1e-5)
    with pytest.raises(TypeError, match="Linear: x must be a SparseTensor or a PointTensor"):
        spnn.Linear(4, 6)(points.feats)
