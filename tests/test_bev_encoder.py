# SPDX-License-Identifier: MIT
"""The encoder of a detector: against dense torch, sizes by hand, its errors."""

from __future__ import annotations

import clouds
import oracle
import peer_nets
import pytest
import torch
from house_form import provoke
from peer_nets import Grid
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn

SHAPE = (20, 13, 41)
SMALL = models.EncoderShape(
    4,
    1,
    (models.EncoderStage(5, 0), models.EncoderStage(6, 2), models.EncoderStage(7, 1, (1, 1, 0))),
    9,
    SHAPE,
)


def encoder(shape=SMALL):
    """Float64, evaluation mode, norms that are not those of a fresh layer."""
    torch.manual_seed(0)
    model = models.BEVEncoder(3, shape).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def scan(shape=SHAPE, num=200, batch_size=2, **options):
    coords = clouds.box_coords(shape, num, batch_size=batch_size)
    feats = clouds.random_values(len(coords), 3)
    return tsl.SparseTensor(feats, coords, spatial_shape=shape, **options)


def dense(module, grid):
    """Layers of ours, one after the other, with ``torch.nn.functional.conv3d`` and a mask."""
    if isinstance(module, spnn.Conv3d):
        weight = oracle.dense_weight(module.weight, module.kernel_size)
        return peer_nets.convolve(grid, weight, None, module.stride, module.padding, None)
    if isinstance(module, models.ResidualBlock):
        inner = dense(module.second, dense(module.first, grid))
        return peer_nets.summed(inner, grid)
    if isinstance(module, nn.Sequential):
        for part in module:
            grid = dense(part, grid)
        return grid
    if isinstance(module, spnn.ReLU):
        return peer_nets.run(nn.ReLU(), grid)
    return peer_nets.run(module, grid)


@torch.no_grad()
def test_it_is_the_dense_network_on_a_masked_grid():
    model, x = encoder(), scan()
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    grid = Grid(*(oracle.scatter_dense(x.coords, f, SHAPE, 2) for f in (x.feats, ones)))
    grid = dense(model.stem, grid)
    levels = model.features(x)
    for stage, level in zip(model.stages, levels, strict=True):
        grid = dense(stage.blocks, dense(stage.transition, grid))
        assert level.spatial_shape == tuple(grid.mask.shape[2:])
        assert len(level) == int(grid.mask.sum())
        expected = oracle.gather_dense(grid.feats, level.coords)
        clouds.assert_close(level.feats, expected, tolerance=1e-10)
    top = dense(model.height, grid).feats
    batch, channels, width, height, layers = top.shape
    picture = model(x)
    assert picture.shape == (2, *model.output_shape(SHAPE)) == (2, 18, 3, 2)
    for c in range(channels):
        for z in range(layers):
            plane = picture[:, c * layers + z]
            clouds.assert_close(plane, top[:, c, :, :, z], tolerance=1e-10)
    assert picture.is_contiguous()
    assert (batch, width, height) == (2, 3, 2)


def windows(size, padding):
    """Pairs of a kernel of 3 with stride 2 over a full axis, and its output size."""
    count = (size + 2 * padding - 3) // 2 + 1
    starts = [2 * n - padding for n in range(count)]
    return sum(0 <= start + tap < size for start in starts for tap in range(3)), count


def test_multiplications_of_a_full_grid_by_hand():
    shape = (6, 5, 16)
    coords = clouds.solid_coords(shape)
    model = models.BEVEncoder(3, SMALL)
    x = tsl.SparseTensor(torch.ones(len(coords), 3), coords, spatial_shape=shape)
    with pytest.raises(ValueError, match="large enough for the stages"):
        model(x)
    shape = (9, 8, 40)
    coords = clouds.solid_coords(shape)
    x = tsl.SparseTensor(torch.ones(len(coords), 3), coords, spatial_shape=shape)

    def same(extent):
        x, y, z = (3 * n - 2 for n in extent)
        return x * y * z

    macs, width = same(shape) * (3 * 4 + 2 * 4 * 4), 4
    for channels, depth, padding in ((5, 0, (1, 1, 1)), (6, 2, (1, 1, 1)), (7, 1, (1, 1, 0))):
        (a, x_size), (b, y_size), (c, z_size) = map(windows, shape, padding)
        shape = (x_size, y_size, z_size)
        macs += a * b * c * width * channels + same(shape) * depth * 2 * channels**2
        width = channels
    assert shape == (2, 1, 4)
    macs += 2 * 1 * 1 * 3 * 7 * 9  # 4 layers, kernel 3, stride 2: one layer
    assert models.profile(model, x).macs == macs


def test_centerpoint_has_the_published_size():
    """Channels 16, 32, 64, 128; 256 channels of 128 by 128 cells go to the detector's neck."""
    model = models.bev_encoder()
    convs = 5 * 16 + 4 * 16**2 + sum(a * b + 4 * b**2 for a, b in ((16, 32), (32, 64), (64, 128)))
    norms = 2 * (16 * 5 + 5 * (32 + 64 + 128) + 128)
    assert sum(p.numel() for p in model.parameters()) == 27 * convs + 3 * 128**2 + norms
    assert model.output_shape() == (256, 128, 128)
    assert model.output_shape((1440, 1440, 41)) == (256, 180, 180)  # voxels of 7.5 cm
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)


def test_it_learns_and_fuses_and_takes_empty_scans():
    model, x = encoder(), scan(batch_size=1)
    with torch.no_grad():
        clouds.assert_close(spnn.fuse(model)(x), model(x), tolerance=1e-10)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    nothing = tsl.SparseTensor(x.feats[:0], x.coords[:0], spatial_shape=SHAPE, batch_size=2)
    assert not model(nothing).any()
    alone = scan(batch_size=2)
    parts = alone.decompose()
    with torch.no_grad():
        together = model(alone)
        for number, part in enumerate(parts):
            assert torch.equal(model(part)[0], together[number])


def test_errors():
    x = scan(batch_size=1)
    without = tsl.SparseTensor(x.feats, x.coords)
    rows = [
        (ValueError, ("BEVEncoder: x", "spatial_shape=(20, 13, 41)"), lambda: encoder()(without)),
        (ValueError, ("large enough",), lambda: encoder().output_shape((20, 20, 9))),
        (TypeError, ("spatial_shape",), lambda: encoder().output_shape((20, 20.5, 9))),
        (ValueError, ("BEVEncoder",), lambda: models.bev_encoder(in_channels=5)(x)),
        (TypeError, ("BEVEncoder: x", "SparseTensor"), lambda: encoder()(x.feats)),
        (ValueError, ("bev_encoder: preset", "centerpoint"), lambda: models.bev_encoder("second")),
        (ValueError, ("EncoderStage: channels",), lambda: models.EncoderStage(0)),
        (ValueError, ("EncoderShape: stem",), lambda: models.EncoderShape(0, 2, (), 8, SHAPE)),
    ]
    for row in rows:
        provoke(*row)
