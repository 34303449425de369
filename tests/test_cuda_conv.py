# SPDX-License-Identifier: MIT
"""Convolution on a GPU against the CPU's kernels, and what it promises about runs and waiting."""

from __future__ import annotations

import clouds
import harness
import pytest
import torch
from conftest import NEEDS_CUDA
from test_gradcheck import CONVS, make_input

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

pytestmark = NEEDS_CUDA
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def forward_backward(kind, device, *, groups=1, dtype=torch.float32, channels=8, relu=False):
    """Output and the gradients of feats and weight; the bias is a constant."""
    x = make_input(kind, channels, num=50, dtype=dtype, device=device)
    shape = {"groups": groups, "dtype": dtype}
    weight = harness.random_weight(CONVS[kind]["kernel_size"], channels, channels, **shape)
    bias = clouds.random_values(channels, seed=2, dtype=dtype)
    feats = x.feats.clone().requires_grad_()
    weight = weight.to(device).requires_grad_()
    out = tsf.conv3d(
        x.replace_feats(feats), weight, bias.to(device), groups=groups, relu=relu, **CONVS[kind]
    )
    grad = clouds.random_values(*out.shape, seed=5, dtype=dtype).to(device)
    return out.feats, *torch.autograd.grad(out.feats, (feats, weight), grad)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_devices_agree(kind, groups, dtype):
    expected = forward_backward(kind, "cpu", groups=groups, dtype=dtype, relu=True)
    actual = forward_backward(kind, "cuda", groups=groups, dtype=dtype, relu=True)
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        clouds.assert_close(got, want, tolerance=clouds.TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_runs_have_the_same_bits(dtype):
    results = [forward_backward("submanifold", "cuda", dtype=dtype) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_call_over_a_known_map_waits_for_nothing(dtype):
    """Forward and backward, once the map and where its taps begin are there."""
    x = make_input("submanifold", 8, num=50, dtype=dtype, device="cuda")
    weight = harness.random_weight(3, 8, 8, dtype=dtype).cuda().requires_grad_()
    feats = x.feats.clone().requires_grad_()

    def step():
        out = tsf.conv3d(x.replace_feats(feats), weight, kernel_size=3).feats
        return torch.autograd.grad(out, (feats, weight), torch.ones_like(out))

    step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_backward_pass_inside_autocast_keeps_its_sums():
    """The weight gradient, which is no part of autocast, is that of a pass outside."""
    x = make_input("submanifold", 8, num=50, dtype=torch.float32, device="cuda")
    weight = harness.random_weight(3, 8, 8, dtype=torch.float32).cuda().requires_grad_()
    grads = []
    for inside in (False, True):
        with torch.autocast("cuda", dtype=torch.float16):
            out = tsf.conv3d(x, weight, kernel_size=3).feats.float()
            if inside:
                grads.append(torch.autograd.grad(out.sum(), weight)[0])
        if not inside:
            grads.append(torch.autograd.grad(out.sum(), weight)[0])
    assert torch.equal(*grads)


def test_nothing_is_kept():
    forward_backward("submanifold", "cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        forward_backward("submanifold", "cuda")
    assert torch.cuda.memory_allocated() == before


def test_a_module_moves_with_its_input():
    """A layer and its input on the GPU give the layer's result on the CPU."""
    x = harness.sparse(clouds.surface_coords(20), 4, dtype=torch.float32)
    layer = tsl.nn.Conv3d(4, 8, 2, 2).requires_grad_(False)
    here = layer(x)
    there = layer.cuda()(x.cuda())
    assert there.device.type == "cuda"
    assert torch.equal(there.coords.cpu(), here.coords)
    clouds.assert_close(there.feats, here.feats, tolerance=1e-5)
