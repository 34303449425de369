# SPDX-License-Identifier: MIT
"""PVCNN and PVCNN++: published sizes counted by hand, the order of operations, what is refused."""

from __future__ import annotations

from itertools import pairwise

import clouds
import pytest
import torch
from test_models import settle
from test_point_voxel import only, plain_mlp, random_cloud

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn

TINY = models.PVCNNShape(
    (models.PVStage(8, 2, 4), models.PVStage(12)), head=((8, 0.2), (6, 0.0)), cloud=(10, 5)
)
TINY_PLUS_PLUS = models.PVCNNPlusPlusShape(
    (
        models.Abstraction(12, 0.8, 6, (8, 8), models.PVStage(6, 2, 4)),
        models.Abstraction(4, 1.6, 4, (10,)),
    ),
    (models.Propagation((9,)), models.Propagation((8, 7), models.PVStage(6, 1, 4))),
    head=((5, 0.5),),
)


def count(name, **factors):
    """Parameters of a network that is never filled with numbers."""
    with torch.device("meta"):
        model = models.pvcnn(name, **factors)
    return sum(p.numel() for p in model.parameters())


# ---- sizes: a linear layer is i * o + o, a norm 2 o, a dense 3x3x3 convolution 27 i o + o


def mlp_size(*widths):
    return sum(i * o + o + 2 * o for i, o in pairwise(widths))


def pvconv_size(i, o, with_se):
    dense = 27 * i * o + o + 2 * o + 27 * o * o + o + 2 * o
    return dense + (2 * o * (o // 8) if with_se else 0) + mlp_size(i, o)


def shapenet_size(w):
    a, b, c, d = (int(w * n) for n in (64, 128, 512, 2048))
    layers = pvconv_size(6, a, True) + pvconv_size(a, b, True) + pvconv_size(b, b, True)
    h, last = int(w * 256), int(w * 128)
    seen = 16 + a + b + b + c + d + d  # category, every layer, the maximum of the last
    return layers + mlp_size(b, c, d) + mlp_size(seen, h, h, last) + last * 50 + 50


def s3dis_size(w):
    a, b, c = (int(w * n) for n in (64, 128, 1024))
    layers = [(9, a), (a, a), (a, a), (a, b)]
    whole = (int(w * 256), int(w * 128))
    h, last = int(w * 512), int(w * 256)
    seen = a + a + a + b + c + whole[-1]
    size = sum(pvconv_size(i, o, False) for i, o in layers) + mlp_size(b, c)
    return size + mlp_size(c, *whole) + mlp_size(seen, h, last) + last * 13 + 13


def s3dis_plus_plus_size(w):
    def at(*widths):
        return [int(w * n) for n in widths]

    def stage(i, o, depth):
        return sum(pvconv_size(i if n == 0 else o, o, True) for n in range(depth))

    size, width = 0, 9
    skips = [6]
    for convs, (one, two) in (((32, 2), (32, 64)), ((64, 3), (64, 128)), ((128, 3), (128, 256))):
        (o,) = at(convs[0])
        size += stage(width, o, convs[1]) + mlp_size(3 + o, *at(one, two))
        (width,) = at(two)
        skips.append(width)
    size += mlp_size(3 + width, *at(256, 256, 512))
    (width,) = at(512)
    for mlp, (o, depth) in (
        ((256, 256), (256, 1)),
        ((256, 256), (256, 1)),
        ((256, 128), (128, 2)),
        ((128, 128, 64), (64, 1)),
    ):
        mlp = at(*mlp)
        size += mlp_size(width + skips.pop(), *mlp) + stage(mlp[-1], *at(o), depth)
        (width,) = at(o)
    (last,) = at(128)
    return size + mlp_size(width, last) + last * 13 + 13


SIZES = {"shapenet": shapenet_size, "s3dis": s3dis_size, "s3dis++": s3dis_plus_plus_size}


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", SIZES)
def test_published_parameter_counts(name, width):
    assert count(name, width=width) == SIZES[name](width)


def test_published_parameter_counts_in_numbers():
    found = {name: count(name) for name in SIZES}
    assert found == {"shapenet": 4_200_434, "s3dis": 2_572_493, "s3dis++": 13_709_837}


def test_resolutions_scale_by_themselves():
    model = models.pvcnn("s3dis", width=0.125, resolution=0.5)
    layers = [m for m in model.modules() if isinstance(m, spnn.PVConv)]
    assert [layer.resolution for layer in layers] == [16, 8, 8, 8]
    assert count("s3dis", width=0.125, resolution=0.5) == SIZES["s3dis"](0.125)


# ---- what they compute


def test_pvcnn_is_spelt_out():
    """Coordinates in front, outputs of all layers, the cloud's maximum through its own MLP."""
    points = random_cloud(80, 2, batch_size=3)
    model = settle(models.PVCNN(2, 5, TINY, num_categories=4)).double()
    category = torch.tensor([2, 0, 3])
    first, second = model.stages[0].layers
    z0 = points.replace_feats(torch.cat([points.xyz, points.feats], dim=1))
    z1 = first(z0)
    z2 = second(z1)
    z3 = plain_mlp(model.stages[1].layers[0], z2.feats)
    parts = [torch.nn.functional.one_hot(category, 4)[points.batch.long()].double()]
    parts += [z1.feats, z2.feats, z3]
    whole = torch.stack([z3[points.batch == cloud].amax(0) for cloud in range(3)])
    for step in (0, 3):
        whole = plain_mlp(model.cloud[step : step + 3], whole)
    y = torch.cat([*parts, whole[points.batch.long()]], dim=1)
    y = plain_mlp(model.classifier[0:3], y)
    y = plain_mlp(model.classifier[4:7], y)  # dropout between, and none behind the second
    expected = torch.nn.functional.linear(y, model.classifier[7].weight, model.classifier[7].bias)
    found = model(points, category)
    clouds.assert_close(found, expected, tolerance=1e-10)
    plain = settle(models.PVCNN(2, 5, models.PVCNNShape((models.PVStage(12),), head=()))).double()
    z = plain_mlp(plain.stages[0].layers[0], z0.feats)
    whole = torch.stack([z[points.batch == cloud].amax(0) for cloud in range(3)])
    (last,) = plain.classifier
    expected = torch.cat([z, whole[points.batch.long()]], dim=1) @ last.weight.T + last.bias
    clouds.assert_close(plain(points), expected, tolerance=1e-10)


def test_pvcnn_plus_plus_is_spelt_out():
    """The last step back sees the features without their coordinates."""
    points = random_cloud(80, 2)
    model = settle(models.PVCNNPlusPlus(2, 5, TINY_PLUS_PLUS)).double()
    z = points.replace_feats(torch.cat([points.xyz, points.feats], dim=1))
    for layer in model.before[0].layers:
        z = layer(z)
    coarse = model.down[0](z)
    coarsest = model.down[1](coarse)
    assert (len(coarse), len(coarsest)) == (24, 8)
    z = model.up[0](coarsest, coarse)
    z = model.up[1](z, points)
    (layer,) = model.after[1].layers
    z = layer(z)
    y = plain_mlp(model.classifier[0:3], z.feats)
    last = model.classifier[-1]
    clouds.assert_close(model(points), y @ last.weight.T + last.bias, tolerance=1e-10)


NETWORKS = {
    "PVCNN": lambda: models.PVCNN(2, 5, TINY),
    "PVCNN++": lambda: models.PVCNNPlusPlus(2, 5, TINY_PLUS_PLUS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_do_not_mix_clouds(name):
    points = random_cloud(120, 2, batch_size=3)
    model = settle(NETWORKS[name]()).double()
    whole = model(points)
    for cloud in range(3):
        alone, rows = only(points, cloud)
        clouds.assert_close(model(alone), whole[rows], tolerance=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_learn(name):
    """A few steps lower the loss; every parameter takes part."""
    torch.manual_seed(0)
    points = random_cloud(150, 2, dtype=torch.float32)
    labels = (points.xyz[:, 0] > 0).long() + 2 * (points.xyz[:, 1] > 0).long()
    model = NETWORKS[name]()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    assert min(losses[-5:]) < 0.8 * losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_empty_clouds(name):
    model = NETWORKS[name]()
    coords = clouds.random_points(60, batch_size=2)
    coords[:, 0] = 2 * coords[:, 0] + 1
    points = tsl.PointTensor(clouds.random_values(60, 2, dtype=torch.float32), coords, 5)
    assert model(points).shape == (60, 5)
    nothing = tsl.PointTensor(torch.ones(0, 2), torch.ones(0, 4), 3)
    scores = model(nothing)
    assert scores.shape == (0, 5)
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_half_types():
    points = random_cloud(80, 2, dtype=torch.float32).bfloat16()
    for make in NETWORKS.values():
        model = make().to(torch.bfloat16).eval()
        assert model(points).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast(name):
    """Convolutions and linear layers in bfloat16, forward and backward, near the float32 scores."""
    points = random_cloud(80, 2, dtype=torch.float32)
    model = settle(NETWORKS[name]())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(points)
    scores.float().square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    clouds.assert_close(scores, model(points), tolerance=0.1)


def test_profile_counts_the_cells_of_grids():
    """Taps beyond the border are no pairs: (3 * 5 - 2) ** 3 are left of 27 * 5**3."""
    points = random_cloud(10, 3, dtype=torch.float32)
    layer = spnn.PVConv(3, 4, resolution=5)
    first, second, linear = models.profile(layer, points).layers
    assert (first.kind, first.num_in, first.num_out) == ("Conv3d", 2 * 125, 2 * 125)
    assert first.pairs == 2 * 13**3
    assert first.macs == 2 * 13**3 * 3 * 4
    assert second.macs == 2 * 13**3 * 4 * 4
    assert linear.macs == 10 * 3 * 4
    assert first.parameters == 27 * 3 * 4 + 4


def test_sizes_that_vanish_are_refused():
    with pytest.raises(ValueError, match=r"scaled: width must be large enough.* 64 .*got 0.001"):
        models.pvcnn("s3dis", width=0.001)
    with pytest.raises(ValueError, match=r"scaled: resolution must be large enough.* got 0.01"):
        models.pvcnn("s3dis", resolution=0.01)
    with pytest.raises(ValueError, match="PVStage: depth must be at least 1, got 0"):
        models.PVStage(8, 0)
    with pytest.raises(ValueError, match="PVCNNPlusPlusShape: up must be as many steps as down"):
        models.PVCNNPlusPlusShape((models.Abstraction(4, 1.0, 4, (8,)),), (), head=())
    with pytest.raises(ValueError, match="pvcnn: preset must be one of shapenet, s3dis, s3dis"):
        models.pvcnn("kitti")
    with pytest.raises(ValueError, match="pvcnn: num_categories must be 0 for PVCNN"):
        models.pvcnn("s3dis++", num_categories=16)
