# SPDX-License-Identifier: MIT
"""Networks inside a trained one."""

from __future__ import annotations

import json

import clouds
import numpy as np
import pytest
import torch
from test_models import settle

import torchsparse_lite as tsl
from torchsparse_lite import models, nas

SHAPE = models.UNetShape(
    (16, 16),
    (models.Stage(16, 2), models.Stage(24, 1, kernel=models.Kernel("3x3x3", 19))),
    (models.Stage(24, 2, block="bottleneck", mids=(16, 12)), models.Stage(16, 0)),
)


def points(dtype=torch.float32):
    coords = clouds.random_points(300, batch_size=2, extent=3.0)
    return tsl.PointTensor(clouds.random_values(300, 4, dtype=dtype), coords.to(dtype), 2)


def trained():
    torch.manual_seed(0)
    network = models.SPVCNN(4, 5, SHAPE, voxel_size=0.3, point_widths={4: 12})
    return settle(network)


def space_of(network, **options):
    """Through JSON, as a config file holds it."""
    return nas.search_space("pruning", **json.loads(json.dumps(nas.pruning_of(network, **options))))


def supernet_of(network, **options):
    space = space_of(network, **options)
    supernet = nas.Supernet(space, in_channels=4, num_classes=5)
    supernet.load_largest(network)
    return supernet.eval()


@torch.no_grad()
def test_the_largest_is_the_network_itself():
    for network in (trained(), settle(models.spvcnn(width=0.25, num_classes=5, voxel_size=0.3))):
        supernet = supernet_of(network)
        supernet.set_active_subnet(supernet.space.largest)
        assert torch.equal(supernet(points()), network(points()))
        assert torch.equal(supernet.get_active_subnet()(points()), network(points()))


@torch.no_grad()
def test_every_draw_is_a_network():
    supernet = supernet_of(trained(), quantum=4)
    rng = np.random.default_rng(0)
    whole = sum(p.numel() for p in supernet.parameters())
    for arch in (supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(20))):
        supernet.set_active_subnet(arch)
        network = supernet.get_active_subnet()
        assert torch.equal(network(points()), supernet(points()))
        assert sum(p.numel() for p in network.parameters()) < whole
    assert sum(p.numel() for p in network.parameters()) > 0.04 * whole


@torch.no_grad()
def test_pruned_channels_and_taps_are_zeros_in_the_whole_network():
    """Of a middle width and of a kernel."""
    network = trained().double()
    supernet = supernet_of(network, quantum=4).double()
    largest = dict(supernet.space.largest)
    arch = supernet.space.arch({**largest, "down.0.mids.1": 8, "down.0.taps": 7})
    supernet.set_active_subnet(arch)
    zeroed = network
    blocks = zeroed.unet.down[0].blocks
    blocks[1].second[0].weight[:, 8:] = 0
    others = [tap for tap in range(27) if tap not in tsl.STENCILS[7]]
    for block in blocks:
        for conv in (block.first[0], block.second[0]):
            conv.weight[others] = 0
    found = supernet(points(torch.float64))
    clouds.assert_close(found, zeroed(points(torch.float64)), tolerance=1e-10)


def test_genes_are_of_the_network():
    space = space_of(trained(), quantum=4, least=0.5)
    genes = {gene.name: gene.options for gene in space.genes}
    assert genes["stem"] == (8, 12, 16)
    assert genes["down.1.transition"] == (8, 12, 16)
    assert "down.0.transition" not in genes  # its shortcut has no projection
    assert genes["up.0.mids.1"] == (8, 12)
    assert genes["down.0.taps"] == (7, 15, 19, 27)
    assert "down.1.taps" not in genes
    assert "up.1.transition" in genes
    odd = models.SPVCNN(4, 5, models.UNetShape.of((10, 10, 10), (1, 1)), voxel_size=0.3)
    assert {g.name: g.options for g in space_of(odd).genes}["stem"] == (8, 10)
    assert space_of(odd).name != space.name
    other = {**nas.pruning_of(trained()), "quantum": 4, "least": 0.5, "voxel_size": 0.2}
    assert nas.pruning(**other).name != space.name


@torch.no_grad()
def test_layers_of_a_stem_keep_their_ratio():
    shape = models.UNetShape((16, 32), SHAPE.down, SHAPE.up)
    network = settle(models.SPVCNN(4, 5, shape, voxel_size=0.3))
    supernet = supernet_of(network)
    assert torch.equal(supernet(points()), network(points()))
    supernet.set_active_subnet(supernet.space.smallest)
    small = supernet.get_active_subnet()
    assert small.unet.shape.stem == (4, 8)
    assert torch.equal(supernet(points()), small(points()))


def test_other_networks_are_refused():
    for wrong, words in (
        ({"quantum": 0}, "pruning: quantum must be positive, got 0"),
        ({"least": 0.0}, "pruning: least must be above 0, at most 1, got 0.0"),
        ({"least": 1.5}, "pruning: least must be above 0, at most 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            space_of(trained(), **wrong)
    with pytest.raises(TypeError, match="pruning_of: network must be an SPVCNN, got MinkUNet"):
        nas.pruning_of(models.minkunet(width=0.125))
    supernet = supernet_of(trained())
    with pytest.raises(ValueError, match="load_largest: network must be the largest of space"):
        supernet.load_largest(models.spvcnn(width=0.25))
