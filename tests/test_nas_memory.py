# SPDX-License-Identifier: MIT
"""Peak memory from counts against what torch's profiler sees a forward pass allocate."""

from __future__ import annotations

import clouds
import numpy as np
import pytest
import torch
from house_form import provoke
from test_memory import bytes_of, peak_bytes

import torchsparse_lite as tsl
from torchsparse_lite import models, nas, ops
from torchsparse_lite.models.blocks import BLOCKS, Kernel
from torchsparse_lite.models.minkunet import Stage, UNetShape
from torchsparse_lite.nas import count_scans, peak_memory
from torchsparse_lite.ops.hash_table import table_bytes

WITHIN = 0.02
SEEDS = range(6)


def scan_of(count=4000, seed=0, extent=4.0):
    coords = clouds.random_points(count, seed=seed, extent=extent)
    return tsl.PointTensor(torch.ones(count, 4), coords.float())


def measured(network, scan) -> int:
    """Of the fused network: weights, the scan, and what is alive beside them at the worst time."""
    fused = tsl.nn.fuse(network.eval())
    with torch.inference_mode():
        peak = peak_bytes(lambda: fused(tsl.PointTensor(scan.feats, scan.coords)))
    return bytes_of(*fused.parameters(), *fused.buffers(), scan.feats, scan.coords) + peak


def check(network, scan):
    found = peak_memory(network, [count_scans([scan], network.voxel_size)])
    assert found == pytest.approx(measured(network, scan), rel=WITHIN)


def test_the_profiler_sees_what_operators_allocate():
    """Inside C++ too, where sizes turn out only there."""
    coords = torch.from_numpy(np.repeat(clouds.solid_coords((20, 20, 20)).numpy(), 2, axis=0))
    found = ops.unique_coords(coords)
    assert peak_bytes(lambda: ops.unique_coords(coords)) == bytes_of(*found)


@pytest.mark.parametrize("edge", [0, 1, 2, 4, 5])
def test_bytes_of_a_hash_table(edge):
    coords = clouds.solid_coords((edge,) * 3).int()
    found = table_bytes(len(coords))
    assert found == bytes_of(*tsl.HashTable(coords).arrays)


@pytest.fixture(scope="module")
def drawn():
    """(measured, found) for networks at random and for a known one."""
    space = nas.lidar(width=0.25, quantum=4, deepest=2)
    scan = scan_of()
    pairs = []
    for seed in SEEDS:
        arch = space.sample(np.random.default_rng(seed))
        network = space.build(arch)
        counts = [count_scans([scan], 0.7), count_scans([scan], network.voxel_size)]
        with torch.device("meta"):
            found = peak_memory(space.build(arch), counts)
        assert found == peak_memory(network, counts)
        pairs.append((measured(network, scan), found))
    network = models.spvcnn(width=0.5)
    counts = [count_scans([scan], network.voxel_size)]
    pairs.append((measured(network, scan), peak_memory(network, counts)))
    return np.array(pairs)


def test_random_networks(drawn):
    np.testing.assert_allclose(drawn[:, 1], drawn[:, 0], rtol=WITHIN)


def test_networks_are_ranked_as_measured(drawn):
    assert (drawn[:, 0].argsort() == drawn[:, 1].argsort()).all()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kernel", [Kernel(), Kernel(taps=7), Kernel("3x1x1"), Kernel("5x5x5")])
def test_blocks(block, kernel):
    """The worst moment is inside a block of the last stage."""

    def stage(channels):
        mids = (2 * channels, 3 * channels)
        return Stage(channels, 2, mids=mids, block=block, kernel=kernel, project=True)

    shape = UNetShape((16,), (stage(16), stage(24)), (stage(24), stage(16)))
    network = models.SPVCNN(shape=shape, voxel_size=0.3, meetings=(4,))
    check(network, scan_of())


SMALL = UNetShape.of((8, 8, 16, 16, 8), (1, 1, 1, 1))
JOINED = UNetShape(
    (16,),
    (Stage(16, 0), Stage(16, 0)),
    (Stage(32, 0, transition=16), Stage(48, 0, transition=32)),
)


OPTIONS = {
    "no blocks": {"shape": UNetShape.of((16, 16, 32, 32, 16), (0, 0, 0, 0))},
    "stages that only join": {"shape": JOINED},
    "5x5x5 stem": {"shape": UNetShape.preset("18", 0.25)},
    "points at the end alone": {"shape": SMALL, "meetings": (4,)},
    "points at other levels": {"shape": SMALL, "meetings": (1, 4)},
    "points everywhere": {"shape": SMALL, "meetings": range(5), "point_widths": {2: 64}},
    "norm in front": {"shape": SMALL, "normalize": True},
    "narrow": {"shape": UNetShape.of((4, 4, 4), (1, 1))},  # finding corners is the worst moment
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("extent", [4.0, 1.0])
def test_shapes_and_meetings(options, extent):
    """One point a voxel, and many."""
    check(models.SPVCNN(voxel_size=0.1, **options), scan_of(extent=extent))


def test_what_was_not_counted_is_refused():
    network = models.spvcnn(width=0.125)
    counts = count_scans([scan_of()], 0.1)
    words = ["peak_memory: statistics", "for voxels of (0.05, 0.05, 0.05)"]
    provoke(ValueError, words, lambda: peak_memory(network, [counts]))
    few = count_scans([scan_of()], 0.05, levels=4)
    words = ["peak_memory: statistics", "at least 5 levels", "got 4"]
    provoke(ValueError, words, lambda: peak_memory(network, [few]))
    words = ["peak_memory: network", "an SPVCNN", "MinkUNet"]
    provoke(TypeError, words, lambda: peak_memory(models.minkunet(width=0.125), [counts]))
