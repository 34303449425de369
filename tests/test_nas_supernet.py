# SPDX-License-Identifier: MIT
"""One set of weights for all networks of a space, to the last bit."""

from __future__ import annotations

import clouds
import numpy as np
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite import models, nas
from torchsparse_lite import nn as spnn
from torchsparse_lite.channels import Joined
from torchsparse_lite.compat import load_weights, read_weights, save_weights
from torchsparse_lite.nas.sharing import layouts_of, take, union

SMALL = {"width": 0.25, "quantum": 4, "deepest": 2, "between": (16, 32)}
SPACES = {
    "spvnas-4": (lambda: nas.spvnas(4), 4),
    "spvnas-16": (lambda: nas.spvnas(16), 4),
    "lidar": (lambda: nas.lidar(**SMALL), 4),
    "pvcnn-s3dis": (lambda: nas.pvcnn_grid("s3dis"), 6),
    "pvcnn-s3dis++": (lambda: nas.pvcnn_grid("s3dis++"), 6),
    "pruning": (lambda: nas.pruning(**nas.pruning_of(models.spvcnn(width=0.25))), 4),
}


def points_of(channels, count=300, seed=0):
    coords = clouds.random_points(count, batch_size=2, seed=seed, extent=3.0)
    feats = clouds.random_values(count, channels, seed=seed, dtype=torch.float32)
    return tsl.PointTensor(feats, coords.float(), 2)


@pytest.fixture(scope="module", params=SPACES)
def trained(request):
    """A supernet whose statistics and weights are not those of a fresh one."""
    torch.manual_seed(0)
    make, channels = SPACES[request.param]
    space = make()
    supernet = nas.Supernet(space)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if "running" in name:
                tensor.add_(torch.rand_like(tensor))
    many = 1500 if "++" in request.param else 300
    return supernet.eval(), points_of(channels, 2 * many)


def draws(space, count):
    rng = np.random.default_rng(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count - 2))]


@torch.no_grad()
def test_subnets_equal_their_extracted_networks_bit_for_bit(trained, tmp_path):
    """50 of each space, through a file too."""
    supernet, points = trained
    space = supernet.space
    for arch in draws(space, 50):
        supernet.set_active_subnet(arch)
        assert supernet.active == arch
        expected = supernet(points)
        network = supernet.get_active_subnet()
        assert not network.training
        assert torch.equal(network(points), expected)
        save_weights(network, tmp_path / "net.pt")
        again = space.build(nas.Arch.from_json(arch.to_json()))
        load_weights(again, read_weights(tmp_path / "net.pt"))
        assert torch.equal(again.eval()(points), expected)


def test_a_subnet_is_where_the_supernet_is():
    supernet = nas.Supernet(nas.spvnas(16)).to("meta")
    assert {p.device.type for p in supernet.get_active_subnet().parameters()} == {"meta"}


def test_gradients_reach_exactly_the_shared_weights_in_use(trained):
    """What an extracted network learns, at its place; nothing elsewhere."""
    supernet, points = trained
    arch = draws(supernet.space, 3)[2]
    supernet.set_active_subnet(arch)
    supernet.zero_grad()
    supernet(points).square().sum().backward()
    network = supernet.get_active_subnet()
    network(points).square().sum().backward()
    shared = {n.replace("/", "."): p for n, p in supernet.named_parameters()}
    wanted = layouts_of(network)
    for name, parameter in network.named_parameters():
        grad = shared[name].grad
        assert torch.equal(take(grad, supernet.layouts[name], wanted[name]), parameter.grad)
        assert grad.abs().sum() == pytest.approx(float(parameter.grad.abs().sum()), rel=1e-4)
    idle = shared.keys() - dict(network.named_parameters()).keys()
    assert all(shared[name].grad is None for name in idle)
    supernet.zero_grad()


def test_statistics_of_a_subnet_are_tracked_in_place():
    supernet = nas.Supernet(nas.spvnas(16))
    supernet.set_active_subnet(supernet.space.smallest)
    before = {n: b.clone() for n, b in supernet.named_buffers()}
    supernet.train()(points_of(4))
    width = supernet.space.smallest.whole("down.0.channels")
    name = "unet/down/0/blocks/0/second/1/running_mean"
    moved = dict(supernet.named_buffers())[name] != before[name]
    assert moved[:width].all()
    assert not moved[width:].any()


def test_the_largest_subnet_is_the_supernet():
    supernet = nas.Supernet(nas.spvnas(4))
    network = supernet.get_active_subnet()
    assert supernet.active == supernet.space.largest
    shared = sum(p.numel() for p in supernet.parameters())
    assert shared == sum(p.numel() for p in network.parameters())
    assert round(shared / 1e6, 1) == 47.8


def test_parts_of_joined_channels_are_shared_apart():
    """Of 3 + 2 inputs the first 2 and the first 1: rows 0, 1 and 3."""
    large, small = spnn.Linear(Joined(3, 2), 2), spnn.Linear(Joined(2, 1), 1)
    whole, part = layouts_of(large), layouts_of(small)
    found = take(large.weight, whole["weight"], part["weight"])
    assert torch.equal(found, large.weight[:1, [0, 1, 3]])


def test_taps_are_shared_by_their_offsets():
    """A 3x3x3 kernel is the middle of a 5x5x5 one; leaving taps out leaves the others."""
    large, small = spnn.Conv3d(1, 1, 5), spnn.Conv3d(1, 1, 3, taps=tsl.STENCILS[7])
    whole, part = layouts_of(large), layouts_of(small)
    found = take(large.weight, whole["weight"], part["weight"]).flatten()
    cube = large.weight.view(5, 5, 5)
    centre = cube[2, 2, 2]
    faces = [cube[1, 2, 2], cube[2, 1, 2], cube[2, 2, 1]]
    expected = [*faces, centre, cube[2, 2, 3], cube[2, 3, 2], cube[3, 2, 2]]
    assert found.tolist() == [tap.item() for tap in expected]
    both = union([part, layouts_of(spnn.Conv3d(1, 1, (1, 3, 1)))])["weight"]
    assert both == part["weight"]


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(TypeError, match=r"layouts_of: 0.weight must be of a convolution"):
        layouts_of(torch.nn.Sequential(torch.nn.PReLU()))
    one, other = spnn.Conv3d(1, 1, 3), spnn.Linear(1, 1)
    with pytest.raises(ValueError, match="union: weight must be of one kind in all networks"):
        union([layouts_of(one), layouts_of(other)])
    gap = nas.SearchSpace(
        "gap",
        (nas.Gene("depth", (1, 2)),),
        lambda arch: spnn.Sequential(*(spnn.Linear(4, 4) for _ in range(arch["depth"]))),
        ({"depth": 1},),
    )
    supernet = nas.Supernet(gap)
    supernet.set_active_subnet(gap.smallest)
    with pytest.raises(ValueError, match=r"set_active_subnet: arch must be .* got 1.bias"):
        supernet.set_active_subnet(gap.largest)


def test_networks_that_share_a_grid_share_its_maps():
    torch.manual_seed(0)
    space = nas.spvnas(16)
    points = points_of(4)
    grid = tsl.PointGrid(points, 0.05)
    rng = np.random.default_rng(0)
    for _ in range(3):
        network = space.build(space.sample(rng)).eval()
        assert torch.equal(network(points, grid), network(points))
    maps = int(repr(grid.sites.manager).split(", ")[1].split()[0])
    assert maps == 5 + 4 + 5  # cubes, halvings, and the projections' identities
    with pytest.raises(ValueError, match="SPVCNN: grid must be of voxel_size"):
        models.spvcnn(voxel_size=0.2)(points, grid)
