# SPDX-License-Identifier: MIT
"""Derivatives by finite differences, adjoint identities, and bitwise promises."""

from __future__ import annotations

import clouds
import harness
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.nn import functional as tsf

CONVS = {
    "submanifold": {"kernel_size": 3},
    "submanifold even": {"kernel_size": 2},
    "submanifold dilated": {"kernel_size": 3, "dilation": 2},
    "pointwise": {"kernel_size": 1},
    "full": {"kernel_size": 3, "padding": 1, "submanifold": False},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "strided cell": {"kernel_size": 3, "stride": 2, "rule": "cell"},
    "pooling like": {"kernel_size": 2, "stride": 2},
    "asymmetric": {"kernel_size": (3, 1, 2), "stride": (2, 1, 1), "padding": (0, 1, 1)},
    "transposed": {"kernel_size": 2, "stride": 2, "transposed": True},
    "transposed k3": {"kernel_size": 3, "stride": 2, "padding": 1, "transposed": True},
    "generative": {"kernel_size": 2, "stride": 2, "transposed": True, "generative": True},
    "generative k3": {
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "transposed": True,
        "generative": True,
    },
}
POOLS = [tsf.max_pool3d, tsf.avg_pool3d, tsf.sum_pool3d]


def make_input(
    kind, channels=4, *, num=14, batch_size=2, seed=0, dtype=torch.float64, device="cpu"
):
    """A tensor that the convolution ``kind`` accepts; transposed ones get an encoder behind it."""
    coords = clouds.signed_coords(num, low=-2, high=2, batch_size=batch_size, seed=seed)
    stride = 2 if CONVS[kind].get("generative") else 1
    x = harness.sparse(coords, channels, dtype=dtype, device=device, stride=stride)
    if CONVS[kind].get("transposed") and not CONVS[kind].get("generative"):
        down = {key: v for key, v in CONVS[kind].items() if key != "transposed"}
        weight = harness.random_weight(down["kernel_size"], channels, channels, dtype=dtype)
        x = tsf.conv3d(x, weight.to(device), **down)
    return x


def leaf(*shape, seed=0, device="cpu"):
    return clouds.random_values(*shape, seed=seed).to(device).requires_grad_()


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv(device, kind, groups):
    """Dense, grouped and depthwise convolution of every kind, for feats, weight and bias."""
    x = make_input(kind, device=device)
    weight = harness.random_weight(CONVS[kind]["kernel_size"], 4, 4, groups=groups)
    inputs = (
        x.feats.clone().requires_grad_(),
        weight.to(device).requires_grad_(),
        leaf(4, seed=2, device=device),
    )
    assert gradcheck(
        lambda f, w, b: tsf.conv3d(x.replace_feats(f), w, b, groups=groups, **CONVS[kind]).feats,
        inputs,
    )


@pytest.mark.parametrize("kind", ["submanifold", "strided", "transposed"])
@pytest.mark.parametrize("relu", [False, True])
def test_fused_epilogue(device, kind, relu):
    """Residual and ReLU inside the convolution differentiate like the three separate steps."""
    x = make_input(kind, device=device)
    weight = harness.random_weight(CONVS[kind]["kernel_size"], 4, 3).to(device)
    plain = tsf.conv3d(x, weight, **CONVS[kind])
    inputs = (
        x.feats.clone().requires_grad_(),
        weight.requires_grad_(),
        leaf(3, seed=2, device=device),
        leaf(len(plain), 3, seed=3, device=device),
    )

    def fused(f, w, b, r):
        residual = plain.replace_feats(r)
        y = tsf.conv3d(x.replace_feats(f), w, b, residual=residual, relu=relu, **CONVS[kind])
        return y.feats

    def separate(f, w, b, r):
        out = tsf.conv3d(x.replace_feats(f), w, b, **CONVS[kind]).feats + r
        return out.relu() if relu else out

    assert gradcheck(fused, inputs)
    clouds.assert_close(fused(*inputs), separate(*inputs), tolerance=1e-12)
    grad = clouds.random_values(len(plain), 3, seed=4).to(device)
    got = torch.autograd.grad((fused(*inputs) * grad).sum(), inputs)
    want = torch.autograd.grad((separate(*inputs) * grad).sum(), inputs)
    for a, b in zip(got, want, strict=True):
        clouds.assert_close(a, b, tolerance=1e-12)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "submanifold": True},
        {"kernel_size": 2, "stride": 2, "rule": "cell"},
    ],
)
def test_pools(device, pool, options):
    x = make_input("submanifold", 3, device=device)
    feats = x.feats.clone().requires_grad_()
    assert gradcheck(lambda f: pool(x.replace_feats(f), **options).feats, (feats,))


@pytest.mark.parametrize("pool", [tsf.global_max_pool, tsf.global_avg_pool, tsf.global_sum_pool])
def test_global_pools(device, pool):
    """segment_reduce through the global pools."""
    x = make_input("submanifold", 3, device=device)
    feats = x.feats.clone().requires_grad_()
    assert gradcheck(lambda f: pool(x.replace_feats(f)), (feats,))


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "first"])
def test_voxelize(device, reduce):
    """segment_reduce through voxelize, several points a voxel."""
    coords = clouds.random_points(40, batch_size=2, extent=1.0, dtype=torch.float64).to(device)
    feats = leaf(40, 3, seed=1, device=device)

    def run(f):
        points = tsl.PointTensor(f, coords)
        return tsl.voxelize(points, 0.5, reduce=reduce).voxels.feats

    assert len(run(feats)) < 40
    assert gradcheck(run, (feats,))


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
@pytest.mark.parametrize("anchor", ["corner", "center"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_devoxelize(device, mode, anchor, renormalize):
    x = make_input("submanifold", 3, num=30, device=device)
    coords = clouds.random_points(25, batch_size=2, extent=2.0, dtype=torch.float64)
    points = tsl.PointTensor(torch.zeros(25, 1, dtype=torch.float64), coords).to(device)

    def run(f):
        options = {"mode": mode, "anchor": anchor, "renormalize": renormalize}
        return tsl.devoxelize(x.replace_feats(f), points, 1.0, **options)

    assert run(x.feats).abs().sum() > 0
    assert gradcheck(run, (x.feats.clone().requires_grad_(),))


@pytest.mark.parametrize("reshape", ["upsample", "unpool"])
def test_upsampling(device, reshape):
    x = make_input("submanifold", 3, device=device)
    coarse = tsf.avg_pool3d(x, kernel_size=2)

    def run(f):
        y = coarse.replace_feats(f)
        if reshape == "upsample":
            return tsf.upsample(y, scale_factor=2).feats
        return tsf.unpool3d(y, kernel_size=2, stride=2).feats

    assert len(run(coarse.feats)) == len(x)
    assert gradcheck(run, (coarse.feats.clone().requires_grad_(),))


def test_tensor_arithmetic(device):
    """Union add, subtract and multiply, concatenation, pruning and dense are differentiable."""
    a = make_input("submanifold", 3, seed=1, device=device)
    b = make_input("submanifold", 3, seed=2, device=device)
    inputs = (a.feats.clone().requires_grad_(), b.feats.clone().requires_grad_())
    mask = torch.arange(len(a), device=device) % 3 > 0
    for combine in (
        lambda x, y: (x + y).feats,
        lambda x, y: (x - y).feats,
        lambda x, y: (x * y).feats,
        lambda x, y: tsl.cat([x, x * 2]).feats.sum() + y.feats.sum(),
        lambda x, y: x[mask].feats.sum() + y.feats.sum(),
        lambda x, y: x.dense(shape=(4, 4, 4), origin=(-2, -2, -2)).sum() + y.feats.sum(),
    ):
        assert gradcheck(lambda f, g, c=combine: c(a.replace_feats(f), b.replace_feats(g)), inputs)


@pytest.mark.parametrize("kind", CONVS)
def test_adjoint_identity(device, kind):
    """<A x, y> = <x, A' y> for the linear map of every convolution kind."""
    x = make_input(kind, num=40, device=device)
    weight = harness.random_weight(CONVS[kind]["kernel_size"], 4, 5).to(device)
    feats = x.feats.clone().requires_grad_()
    out = tsf.conv3d(x.replace_feats(feats), weight, **CONVS[kind]).feats
    other = clouds.random_values(*out.shape, seed=9).to(device)
    (back,) = torch.autograd.grad((out * other).sum(), feats)
    forward = (out.detach() * other).sum()
    assert abs(forward - (x.feats * back).sum()) <= 1e-12 * forward.abs().clamp(min=1)


@pytest.mark.parametrize("kernel", [2, 3])
def test_transposed_is_the_adjoint_of_strided(device, kernel):
    """The transposed convolution with each tap's weight transposed is the adjoint operator."""
    options = {"kernel_size": kernel, "stride": 2, "padding": kernel - 2}
    coords = clouds.signed_coords(50, batch_size=2)
    x = harness.sparse(coords, 3, device=device)
    weight = harness.random_weight(kernel, 3, 5).to(device)
    y = tsf.conv3d(x, weight, **options)
    other = y.replace_feats(clouds.random_values(len(y), 5, seed=3).to(device))
    back = tsf.conv3d(other, weight.mT.contiguous(), transposed=True, **options)
    assert torch.equal(back.coords, x.coords)
    left, right = (y.feats * other.feats).sum(), (x.feats * back.feats).sum()
    assert abs(left - right) <= 1e-12 * left.abs().clamp(min=1)


def forward_backward(x, kind, weight, bias, **options):
    """Coordinates, output, and the three gradients of a fixed loss."""
    leaves = [t.detach().clone().requires_grad_() for t in (x.feats, weight, bias)]
    y = tsf.conv3d(x.replace_feats(leaves[0]), *leaves[1:], **CONVS[kind], **options)
    grad = torch.linspace(-1, 1, y.shape[1], dtype=y.dtype, device=y.device) * y.feats.detach()
    return y.coords, y.feats, *torch.autograd.grad((y.feats * grad).sum(), leaves)


def weights_for(kind, channels, dtype, device):
    weight = harness.random_weight(CONVS[kind]["kernel_size"], channels, channels, dtype=dtype)
    return weight.to(device), clouds.random_values(channels, seed=2, dtype=dtype).to(device)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bitwise_for_any_thread_count_and_run(device, threads, kind, dtype):
    """Forward and every gradient have the same bits with 1 and 2 threads and run to run.

    The cloud is large enough that torch's own reductions would split over threads as well.
    """
    results = []
    for count in (1, 2, 2, 1):
        threads(count)
        coords = clouds.surface_coords(48, batch_size=2, seed=5)
        stride = 2 if CONVS[kind].get("generative") else 1
        x = harness.sparse(coords, 24, dtype=dtype, device=device, stride=stride)
        if kind.startswith("transposed"):
            down = {key: v for key, v in CONVS[kind].items() if key != "transposed"}
            x = tsf.conv3d(x, weights_for(kind, 24, dtype, device)[0], **down)
        results.append(forward_backward(x, kind, *weights_for(kind, 24, dtype, device)))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_bias_gradient_of_one_channel_for_any_thread_count(device, threads):
    """A single long column, which torch's own sum would split by the number of threads."""
    x = harness.sparse(clouds.surface_coords(260, seed=3), 1, dtype=torch.float32, device=device)
    assert len(x) > 40_000
    results = []
    for count in (1, 2):
        threads(count)
        bias = torch.zeros(1, device=device, requires_grad=True)
        y = tsf.conv3d(x, torch.ones(3, 1, 1, device=device), bias, kernel_size=(3, 1, 1))
        results.append(torch.autograd.grad((y.feats * x.feats).sum(), bias)[0])
    assert torch.equal(*results)


LAYERS = {
    "BatchNorm": lambda: tsl.nn.BatchNorm(16),
    "BatchNorm in eval mode": lambda: tsl.nn.BatchNorm(16).eval(),
    "GroupNorm": lambda: tsl.nn.GroupNorm(4, 16),
    "InstanceNorm": lambda: tsl.nn.InstanceNorm(16),
    "LayerNorm": lambda: tsl.nn.LayerNorm(16),
    "Linear": lambda: tsl.nn.Linear(16, 16),
    "PReLU": lambda: tsl.nn.PReLU(16),
    "PReLU of one slope": lambda: tsl.nn.PReLU(),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_with_sums_for_any_thread_count(device, threads, name, dtype):
    """Output, running statistics and gradients have the same bits."""
    x = harness.sparse(clouds.surface_coords(80, batch_size=2), 16, dtype=dtype)
    x = x.to(device)
    results = []
    for count in (1, 2, 3):
        threads(count)
        torch.manual_seed(0)
        layer = LAYERS[name]().to(device)
        if name == "Linear":
            layer.to(dtype)
        feats = x.feats.clone().requires_grad_()
        y = layer(x.replace_feats(feats))
        inputs = (feats, *layer.parameters())
        grads = torch.autograd.grad((y.feats * x.feats).sum(), inputs)
        results.append((y.feats, *grads, *layer.buffers()))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_independence_is_bitwise(device, kind, dtype):
    """A sample's output and input gradient do not depend on its batch mates, to the bit."""
    x = make_input(kind, 8, num=50, batch_size=3, dtype=dtype, device=device)
    weight, bias = weights_for(kind, 8, dtype, device)
    target = {}
    coords, out, grad, _, _ = forward_backward(x, kind, weight, bias)
    for batch, part in enumerate(x.decompose()):
        if kind.startswith("transposed"):
            sites = coords[coords[:, 0] == batch].clone()
            sites[:, 0] = 0
            target = {"target": tsl.SparseTensor(out.new_zeros(len(sites), 1), sites)}
        own_coords, own_out, own_grad, _, _ = forward_backward(part, kind, weight, bias, **target)
        rows = clouds.row_lookup(
            coords.cpu(), own_coords.cpu() + torch.tensor([batch, 0, 0, 0], dtype=torch.int32)
        )
        assert len(rows) == int((coords[:, 0] == batch).sum())
        assert torch.equal(out[rows.to(device)], own_out)
        assert torch.equal(grad[x.coords[:, 0] == batch], own_grad)


@pytest.mark.parametrize("kind", CONVS)
def test_row_permutation_equivariance(device, kind):
    """Permuting the rows permutes the results, to the bit but for the sums over rows."""
    x = make_input(kind, 8, num=50, device=device)
    weight, bias = weights_for(kind, 8, torch.float64, device)
    target = {}
    coords, out, grad, grad_weight, grad_bias = forward_backward(x, kind, weight, bias)
    if kind.startswith("transposed"):
        target = {"target": tsl.SparseTensor(out.new_zeros(len(coords), 1), coords)}
    orders = [torch.randperm(len(x), generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    orders.append(clouds.morton_order(x.coords.cpu()))
    for order in orders:
        y = tsl.SparseTensor(x.feats[order.to(device)], x.coords[order.to(device)], x.stride)
        result = forward_backward(y, kind, weight, bias, **target)
        rows = clouds.row_lookup(coords.cpu(), result[0].cpu()).to(device)
        assert len(result[0]) == len(coords)
        if kind in ("submanifold", "submanifold even", "submanifold dilated", "pointwise"):
            assert torch.equal(result[0], y.coords)
        assert torch.equal(out[rows], result[1])
        assert torch.equal(grad[order.to(device)], result[2])
        clouds.assert_close(result[3], grad_weight, tolerance=1e-12)
        clouds.assert_close(result[4], grad_bias, tolerance=1e-12)


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "first"])
def test_voxelize_is_bitwise_for_any_thread_count(device, threads, reduce):
    coords = clouds.random_points(5000, batch_size=2).to(device)
    feats = clouds.random_values(5000, 5, seed=1, dtype=torch.float32).to(device)
    results = []
    for count in (1, 2, 2):
        threads(count)
        leaf_feats = feats.clone().requires_grad_()
        voxels, index, counts = tsl.voxelize(
            tsl.PointTensor(leaf_feats, coords), 0.4, reduce=reduce
        )
        back = tsl.devoxelize(voxels, tsl.PointTensor(feats, coords), 0.4, mode="trilinear")
        (grad,) = torch.autograd.grad((back * feats).sum(), leaf_feats)
        results.append((voxels.coords, voxels.feats, index, counts, back, grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_max_pool_is_twice_differentiable():
    """A gradient penalty goes through a pool: its second derivative is a gather by the maxima."""
    x = harness.sparse(clouds.surface_coords(5), 2)
    feats = leaf(len(x), 2, seed=3)

    def run(values):
        return tsf.max_pool3d(x.replace_feats(values), kernel_size=2).feats ** 2

    assert gradgradcheck(run, feats)


def test_interpolation_is_twice_differentiable():
    index = torch.tensor([[0, 1], [2, -1], [3, 3], [-1, -1]])
    inputs = leaf(4, 3, seed=1), leaf(4, 2, seed=2)
    assert gradgradcheck(lambda feats, weight: ops.interpolate(feats, index, weight), inputs)
