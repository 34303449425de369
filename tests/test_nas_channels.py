# SPDX-License-Identifier: MIT
"""Channels that change places together, and networks that do not notice."""

from __future__ import annotations

from collections import Counter

import clouds
import numpy as np
import pytest
import torch
from test_models import settle

import torchsparse_lite as tsl
from torchsparse_lite import models, nas
from torchsparse_lite.nas.channels import channel_groups, sort_channels

SPACE = nas.lidar(width=0.25, quantum=4, deepest=2)
NETWORKS = {
    "released": lambda: models.spvcnn(width=0.25, voxel_size=0.2),
    "searched": lambda: nas.spvnas(4, width=0.25, voxel_size=0.2).build(
        nas.spvnas(4, width=0.25, voxel_size=0.2).sample(np.random.default_rng(0))
    ),
    **{
        f"lidar {seed}": lambda seed=seed: SPACE.build(SPACE.sample(np.random.default_rng(seed)))
        for seed in range(8)
    },
}


def points():
    coords = clouds.random_points(300, batch_size=2, extent=3.0)
    return tsl.PointTensor(clouds.random_values(300, 4), coords, 2)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_groups_can_be_shuffled(name):
    network = settle(NETWORKS[name]()).double()
    expected = network(points())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {n: t.clone() for n, t in tensors.items()}
    generator = torch.Generator().manual_seed(0)
    for group in channel_groups(network):
        order = torch.randperm(group.size, generator=generator)
        for place, axis, first in group.places:
            part = tensors[place].narrow(axis, first, group.size)
            part.copy_(part.index_select(axis, order))
    assert sum(not torch.equal(before[n], t) for n, t in tensors.items()) > 0.8 * len(
        [n for n in tensors if "num_batches" not in n]
    )
    clouds.assert_close(network(points()), expected, tolerance=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_cover_every_axis_once(name):
    """All rows of all axes but taps, the network's inputs and its scores."""
    network = NETWORKS[name]()
    covered = Counter()
    for group in channel_groups(network):
        for place, axis, first in group.places:
            covered.update((place, axis, row) for row in range(first, first + group.size))
    assert set(covered.values()) == {1}
    for place, tensor in (*network.named_parameters(), *network.named_buffers()):
        axes = range(tensor.dim() - 2, tensor.dim()) if tensor.dim() > 1 else range(tensor.dim())
        for axis in axes:
            rows = {row for n, a, row in covered if (n, a) == (place, axis)}
            is_end = (place, axis) in {
                ("unet.stem.0.0.weight", 1),
                ("classifier.weight", 0),
                ("classifier.bias", 0),
            }
            is_depthwise = tensor.dim() == 3 and tensor.shape[1] == 1
            if not is_end and not (is_depthwise and axis == 1):
                assert rows == set(range(tensor.shape[axis])), (place, axis)


@torch.no_grad()
def test_important_channels_come_first():
    network = settle(NETWORKS["released"]()).double()
    expected = network(points())
    sort_channels(network)
    clouds.assert_close(network(points()), expected, tolerance=1e-9)
    first = network.unet.down[1].blocks[0].first[0].weight
    importance = first.abs().sum((0, 1))
    assert torch.equal(importance, importance.sort(descending=True).values)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="channel_groups: network must be an SPVCNN, got MinkUNet"):
        channel_groups(models.minkunet(width=0.125))
