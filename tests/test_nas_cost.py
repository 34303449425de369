# SPDX-License-Identifier: MIT
"""Costs from counts: the published number, and equality with what a forward pass counts."""

from __future__ import annotations

import clouds
import numpy as np
import pytest
import torch
from test_nas_space import released_config

import torchsparse_lite as tsl
from torchsparse_lite import models, nas
from torchsparse_lite.nas.cost import count_scans, estimate
from torchsparse_lite.nas.spaces.spvnas import from_net_config


def scan_of(count=4000, seed=0):
    coords = clouds.random_points(count, seed=seed, extent=4.0)
    return tsl.PointTensor(torch.ones(count, 4), coords.float())


@pytest.mark.data
def test_published_multiplications(data_dir):
    """SPVNAS@65G on SPVNAS' sample scan: 75.9 G, one point per voxel as there."""
    path = data_dir / "semantickitti/sequences/08/velodyne/000000.bin"
    xyz = np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]
    cells = np.unique(np.round(xyz / np.float32(0.05)), axis=0)
    cells = torch.from_numpy(cells - cells.min(0))
    scan = tsl.PointTensor(torch.ones(len(cells), 4), (cells + 0.5) * 0.05)
    counts = count_scans([scan], 0.05)
    assert counts.voxels.tolist() == [94_625, 68_931, 42_166, 21_525, 9_522]
    cube = [counts.pairs(level, tsl.ConvGeometry.same(3).offsets) for level in range(5)]
    assert cube == [286_263, 309_177, 267_754, 166_517, 82_740]
    with torch.device("meta"):
        network = nas.spvnas(4).build(from_net_config(released_config()))
    found = estimate(network, [counts])
    assert round(found.macs / 1e9, 1) == 75.9
    assert round(found.parameters / 1e6, 2) == 10.79


@pytest.mark.parametrize("seed", range(6))
def test_estimates_are_what_a_forward_pass_counts(seed):
    """Layer by layer, for kernels and blocks of all kinds."""
    space = nas.lidar(width=0.25, quantum=4, deepest=2)
    arch = space.sample(np.random.default_rng(seed))
    network = space.build(arch)
    scan = scan_of()
    counts = count_scans([scan], network.voxel_size)
    expected = {layer.name: layer for layer in models.profile(network, scan).layers}
    with torch.device("meta"):
        found = estimate(space.build(arch), [count_scans([scan], 0.7), counts])
    assert {layer.name: layer for layer in found.layers} == expected
    assert found.parameters == sum(p.numel() for p in network.parameters())


def test_counts_are_means_over_scans():
    scans = [scan_of(3000), scan_of(5000, seed=1)]
    both = count_scans(scans, 0.1)
    one, other = (count_scans([scan], 0.1) for scan in scans)
    assert both.points == 4000
    np.testing.assert_allclose(both.voxels, (one.voxels + other.voxels) / 2)
    np.testing.assert_allclose(both.neighbors, (one.neighbors + other.neighbors) / 2)


def test_what_was_not_counted_is_refused():
    network = models.spvcnn(width=0.125)
    counts = count_scans([scan_of()], 0.1)
    with pytest.raises(ValueError, match=r"statistics must be for voxels of \(0.05, 0.05, 0.05\)"):
        estimate(network, [counts])
    with pytest.raises(ValueError, match="statistics must be of at least 5 levels, got 4"):
        estimate(network, [count_scans([scan_of()], 0.05, levels=4)])
    with pytest.raises(TypeError, match=r"estimate: network must be an? SPVCNN"):
        estimate(models.minkunet(width=0.125), [counts])
    with pytest.raises(ValueError, match="count_scans: scans must be at least one, got none"):
        count_scans([], 0.1)
    with pytest.raises(ValueError, match=r"offsets must be at most 2 in every axis, got 3"):
        counts.pairs(0, [(3, 0, 0)])
