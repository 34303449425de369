# SPDX-License-Identifier: MIT
"""Blocks of all kinds and kernels; convolutions that leave taps out."""

from __future__ import annotations

from itertools import product

import clouds
import pytest
import torch
from test_models import settle
from torch.autograd import gradcheck

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn
from torchsparse_lite.models.blocks import BLOCKS, KERNELS, Kernel

PARTS = {
    "residual": ("first", "second"),
    "bottleneck": ("reduce", "spatial", "expand"),
    "depthwise": ("widen", "depthwise", "narrow"),
}
CASES = [Kernel(form) for form in KERNELS] + [Kernel("3x3x3", taps) for taps in (19, 15, 7)]


def cloud(channels=4, dtype=torch.float64):
    sites = clouds.signed_coords(80, batch_size=2, seed=1)
    return tsl.SparseTensor(clouds.random_values(len(sites), channels, dtype=dtype), sites)


def test_stencils_are_the_lattices():
    offsets = tsl.ConvGeometry.same(3).offsets
    distances = {
        count: sorted({sum(c * c for c in offsets[tap]) for tap in taps})
        for count, taps in tsl.STENCILS.items()
    }
    assert distances == {27: [0, 1, 2, 3], 19: [0, 1, 2], 15: [0, 1, 3], 7: [0, 1]}
    assert all(len(taps) == count for count, taps in tsl.STENCILS.items())


@pytest.mark.parametrize("taps", [tsl.STENCILS[19], tsl.STENCILS[7], (0, 13), (5,), (0, 1, 2, 26)])
@pytest.mark.parametrize("groups", [1, 4])
def test_leaving_taps_out_is_a_kernel_with_zeros(taps, groups):
    """Values and gradients; symmetric choices and others; depthwise too."""
    x = cloud()
    part = spnn.Conv3d(4, 8 if groups == 1 else 4, 3, groups=groups, taps=taps).double()
    whole = spnn.Conv3d(4, part.out_channels, 3, groups=groups).double()
    with torch.no_grad():
        whole.weight.zero_()
        whole.weight[list(taps)] = part.weight
        whole.bias.copy_(part.bias)
    results = []
    for conv in (part, whole):
        leaf = x.feats.clone().requires_grad_()
        out = conv(x.replace_feats(leaf)).feats
        grads = torch.autograd.grad((out * out.detach()).sum(), (leaf, conv.weight))
        results.append((out, *grads))
    (out, grad, own), (expected, expected_grad, every) = results
    clouds.assert_close(out, expected, tolerance=1e-12)
    clouds.assert_close(grad, expected_grad, tolerance=1e-12)
    clouds.assert_close(own, every[list(taps)], tolerance=1e-12)
    assert f"taps={len(taps)} of 27" in repr(part)


def test_taps_share_the_map_of_the_whole_kernel():
    x = cloud()
    spnn.Conv3d(4, 4, 3, taps=tsl.STENCILS[7]).double()(x)
    assert repr(x.manager).endswith("2 kernel maps)")
    geometry = tsl.ConvGeometry((3,) * 3, padding=(1,) * 3, taps=tsl.STENCILS[7])
    small = x.manager.submanifold(x.level, geometry)
    assert small.is_symmetric
    assert small.full_tap == 3
    rows, counts = small.neighbors.rows, small.neighbors.ptr.diff()
    assert len(rows) == small.num_pairs == int(counts.sum())
    assert tsl.ConvGeometry.same(3) == tsl.ConvGeometry((3,) * 3, padding=(1,) * 3, taps=range(27))


def plain_layers(module):
    """All but those inside squeeze-and-excitation."""
    if isinstance(module, spnn.SqueezeExcitation):
        return
    yield module
    for child in module.children():
        yield from plain_layers(child)


@pytest.mark.parametrize(("block", "kernel"), [*product(BLOCKS, CASES)])
def test_fused_blocks_compute_the_same(block, kernel):
    x = cloud(6)
    for out_channels, project in ((8, False), (6, False), (6, True)):
        made = BLOCKS[block](6, out_channels, 5, kernel=kernel, project=project)
        made = settle(made).double()
        assert isinstance(made.shortcut, torch.nn.Identity) is (out_channels == 6 and not project)
        expected = made(x)
        assert (expected.feats >= 0).all()
        assert expected.level is x.level
        fused = spnn.fuse(made)
        clouds.assert_close(fused(x).feats, expected.feats, tolerance=1e-10)
        assert not any(isinstance(m, (spnn.BatchNorm, spnn.ReLU)) for m in plain_layers(fused))


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_spelt_out(block):
    """The parts in order, the shortcut, the last ReLU."""
    x = cloud(6)
    made = settle(BLOCKS[block](6, 8, 5)).double()
    y = x
    for name in PARTS[block]:
        y = getattr(made, name)(y)
    expected = (y.feats + made.shortcut(x).feats).relu()
    assert torch.equal(made(x).feats, expected)
    kinds = [type(m).__name__ for m in made.modules()]
    assert kinds.count("SqueezeExcitation") == (block == "depthwise")
    convs = [m for m in made.modules() if isinstance(m, spnn.Conv3d)]
    assert sum(conv.kernel_size == (3, 3, 3) for conv in convs) == (2 if block == "residual" else 1)
    assert sum(conv.groups == 5 for conv in convs) == (block == "depthwise")


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_differentiable(block):
    x = cloud(3)
    made = settle(BLOCKS[block](3, 4, 4, kernel=Kernel("3x1x1"))).double()
    leaf = x.feats[:, :3].clone().requires_grad_()
    assert gradcheck(lambda f: made(x.replace_feats(f)).feats, leaf, fast_mode=True)


def test_networks_of_other_blocks():
    shape = models.UNetShape(
        (8,),
        (
            models.Stage(8, 1, block="depthwise", project=True),
            models.Stage(12, 1, kernel=Kernel("3x3x3", 7)),
        ),
        (models.Stage(8, 1, block="bottleneck", mids=(4,)), models.Stage(8, 0, project=True)),
    )
    model = models.MinkUNet(4, 3, shape)
    x = cloud(dtype=torch.float32)
    model(x).feats.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model = settle(model)
    clouds.assert_close(spnn.fuse(model)(x).feats, model(x).feats, tolerance=1e-5)


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match="Kernel: form must be one of 3x3x3, 3x1x1, 5x5x5"):
        Kernel("7")
    with pytest.raises(ValueError, match="Kernel: taps must be one of 27, 19, 15, 7 for a kernel"):
        Kernel("3x3x3", 9)
    with pytest.raises(
        ValueError, match="Kernel: taps must be one of 27 for a kernel of form 5x5x5"
    ):
        Kernel("5x5x5", 19)
    with pytest.raises(ValueError, match="Stage: block must be one of residual"):
        models.Stage(8, block="dense")
    for wrong in ((), (1, 0), (0, 0), (27,), (-1,)):
        with pytest.raises(ValueError, match="ConvGeometry: taps must be different numbers"):
            spnn.Conv3d(1, 1, 3, taps=wrong)
    with pytest.raises(ValueError, match="Conv3d: taps must be left out unless"):
        spnn.Conv3d(1, 1, 2, 2, taps=(0, 1))
    with pytest.raises(ValueError, match="SPVCNN: point_widths must be among the meetings"):
        models.SPVCNN(shape=models.UNetShape.preset("42", 0.125), point_widths={0: 8})
