# SPDX-License-Identifier: MIT
"""Norms, containers, pooling dtypes and fusion, against torch's own layers."""

from __future__ import annotations

import copy
from collections import OrderedDict

import clouds
import harness
import oracle
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.nn import functional as tsf


def cloud(channels=4, *, dtype=torch.float32, batch_size=3, device="cpu"):
    coords = clouds.signed_coords(60, batch_size=batch_size, seed=2)
    return harness.sparse(coords, channels, dtype=dtype, device=device)


def rows_of_batch(x, batch):
    return x.coords[:, 0] == batch


NORM_OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.7, "eps": 0.1},
    {"affine": False},
    {"track_running_stats": False},
]


def step_of(norm, run, feats):
    """Output and gradients of a fixed loss."""
    leaf = feats.clone().requires_grad_()
    out = run(leaf)
    grad = torch.linspace(-1, 2, out.numel(), device=out.device).reshape(out.shape).to(out.dtype)
    return out, *torch.autograd.grad(out, (leaf, *norm.parameters()), grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", NORM_OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_batch_norm_is_torchs(device, training, options, dtype):
    """Outputs, gradients and running statistics of three steps are those of BatchNorm1d."""
    ours = tsl.nn.BatchNorm(4, **options).to(device)
    theirs = torch.nn.BatchNorm1d(4, **options).to(device)
    if dtype == torch.float64:
        ours.double(), theirs.double()
    if ours.affine:
        with torch.no_grad():
            ours.weight.copy_(torch.arange(4.0) + 0.5)
            ours.bias.copy_(torch.arange(4.0) - 2)
    theirs.load_state_dict(ours.state_dict())
    ours.train(training)
    theirs.train(training)
    for step in range(3):
        x = cloud(dtype=dtype, device=device)
        feats = x.feats * (step + 1) + step
        got = step_of(ours, lambda f, x=x: ours(x.replace_feats(f)).feats, feats)
        for mine, expected in zip(got, step_of(theirs, theirs, feats), strict=True):
            assert mine.dtype == expected.dtype
            clouds.assert_close(mine, expected, tolerance=clouds.TOLERANCE[dtype])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        clouds.assert_close(ours.state_dict()[name], value, tolerance=1e-6, what=name)


def test_batch_norm_keeps_its_digits_beside_a_large_mean(device):
    """The variance does not drown in the square of the mean."""
    x = cloud(dtype=torch.float64, device=device)
    y = tsl.nn.BatchNorm(4, eps=0).to(device).double()(x.replace_feats(x.feats + 1e7))
    clouds.assert_close(y.feats.var(0, unbiased=False), torch.ones(4), tolerance=1e-8)


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "InstanceNorm", "Linear", "PReLU"])
def test_layers_with_sums_over_sites_differentiate_twice(name):
    x = cloud(dtype=torch.float64, batch_size=2)
    x = x[torch.arange(len(x)) % 10 == 0]
    layer = getattr(tsl.nn, name)(*((4, 3) if name == "Linear" else (4,))).double()
    parameters = dict(layer.named_parameters())

    def run(feats, *values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, state, (x.replace_feats(feats),)).feats

    inputs = [t.detach().clone().requires_grad_() for t in (x.feats, *parameters.values())]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_torchs_for_each_sample(device, groups):
    """Each sample alone through torch's GroupNorm, as a (1, C, n) tensor."""
    x = cloud(device=device, dtype=torch.float64)
    ours = tsl.nn.GroupNorm(groups, 4).to(device).double()
    theirs = torch.nn.GroupNorm(groups, 4).to(device).double()
    with torch.no_grad():
        ours.weight.copy_(torch.arange(4.0))
        ours.bias.copy_(torch.arange(4.0) - 2)
    theirs.load_state_dict(ours.state_dict())
    y = ours(x)
    for batch in range(3):
        mine = rows_of_batch(x, batch)
        expected = theirs(x.feats[mine].T.unsqueeze(0))[0].T
        clouds.assert_close(y.feats[mine], expected, tolerance=1e-12)


def test_instance_norm_is_torchs_for_each_sample(device):
    x = cloud(device=device, dtype=torch.float64)
    y = tsl.nn.InstanceNorm(4).to(device).double()(x)
    for batch in range(3):
        mine = rows_of_batch(x, batch)
        expected = torch.nn.functional.instance_norm(x.feats[mine].T.unsqueeze(0))[0].T
        clouds.assert_close(y.feats[mine], expected, tolerance=1e-12)


@pytest.mark.parametrize("layer", [tsl.nn.GroupNorm(2, 4), tsl.nn.InstanceNorm(4)])
def test_norms_per_sample_differentiate(layer):
    x = cloud(dtype=torch.float64, batch_size=2)
    layer = copy.deepcopy(layer).double()
    keep = torch.arange(len(x)) % 8 == 0
    small = x[keep]
    feats = small.feats.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: layer(small.replace_feats(f)).feats, (feats,))


def test_layer_norm_linear_and_dropout(device):
    x = cloud(device=device)
    norm, linear = tsl.nn.LayerNorm(4).to(device), tsl.nn.Linear(4, 7).to(device)
    assert torch.equal(norm(x).feats, torch.nn.functional.layer_norm(x.feats, (4,)))
    expected = step_of(
        linear, lambda f: torch.nn.functional.linear(f, *linear.parameters()), x.feats
    )
    got = step_of(linear, lambda f: linear(x.replace_feats(f)).feats, x.feats)
    for mine, theirs in zip(got, expected, strict=True):
        clouds.assert_close(mine, theirs, tolerance=1e-6)
    dropped = tsl.nn.Dropout(0.5).train()(x).feats
    assert 0 < int((dropped == 0).sum()) < dropped.numel()
    assert torch.equal(tsl.nn.Dropout(0.5).eval()(x).feats, x.feats)


def test_sequential_takes_torchs_layers_too():
    """Plain torch layers act on the features; a global pool ends the sparse part."""
    net = tsl.nn.Sequential(
        tsl.nn.Conv3d(4, 8, 3),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        tsl.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()),
        tsl.nn.Sequential(tsl.nn.Conv3d(8, 8, 2, 2), tsl.nn.ReLU()),
        tsl.nn.GlobalAvgPool(),
        torch.nn.Linear(8, 5),
    )
    assert net(cloud()).shape == (3, 5)


def test_sequential_sees_through_wrappers():
    """A parametrized or data-parallel layer gets what the layer itself gets."""
    norm = torch.nn.utils.parametrizations.weight_norm
    net = tsl.nn.Sequential(
        norm(tsl.nn.Conv3d(4, 8, 3)),
        tsl.nn.ReLU(),
        norm(torch.nn.Linear(8, 8)),
        torch.nn.DataParallel(tsl.nn.Conv3d(8, 8, 3), device_ids=[]),
        torch.nn.DataParallel(torch.nn.ReLU(), device_ids=[]),
    )
    x = cloud()
    y = net(x)
    assert y.shape == (len(x), 8)
    assert y.level is x.level
    clouds.assert_close(tsl.nn.fuse(net)(x).feats, y.feats, tolerance=1e-6)


def test_conversion_to_sync_batch_norm():
    """Weights and statistics move over; in eval mode the two give the same."""
    net = tsl.nn.Sequential(tsl.nn.Conv3d(4, 4, 3), tsl.nn.BatchNorm(4), torch.nn.BatchNorm1d(4))
    net(cloud())
    net.eval()
    expected = net(cloud()).feats
    converted = tsl.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert type(converted[1]) is tsl.nn.SyncBatchNorm
    assert type(converted[2]) is torch.nn.SyncBatchNorm
    assert sorted(converted.state_dict()) == sorted(net.state_dict())
    clouds.assert_close(converted.eval()(cloud()).feats, expected, tolerance=1e-6)


def trained_network():
    """A network of every kind of layer whose statistics have moved."""
    torch.manual_seed(0)
    net = tsl.nn.Sequential(
        tsl.nn.Conv3d(4, 8, 3, bias=False),
        tsl.nn.BatchNorm(8),
        tsl.nn.ReLU(),
        tsl.nn.Sequential(tsl.nn.Conv3d(8, 8, 3, groups=8), tsl.nn.BatchNorm(8)),
        tsl.nn.Conv3d(8, 8, 2, 2),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(8, 4, 2, 2, transposed=True),
        tsl.nn.BatchNorm(4),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(4, 3, 1),
    ).double()
    for _ in range(5):
        net(cloud(dtype=torch.float64))
    return net


def test_fuse_keeps_the_result_and_the_model(device):
    """Folded norms and fused ReLUs compute the same; the given model stays as it was."""
    net = trained_network().to(device).train()
    before = copy.deepcopy(net.state_dict())
    fused = tsl.nn.fuse(net)
    assert net.training
    assert not fused.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    kinds = {type(module) for module in fused.modules()}
    assert tsl.nn.BatchNorm not in kinds
    x = cloud(dtype=torch.float64, device=device)
    clouds.assert_close(fused(x).feats, net.eval()(x).feats, tolerance=1e-12)


def test_fuse_takes_the_synchronized_norm():
    net = trained_network()
    synchronized = tsl.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    for model in (synchronized, torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)):
        fused = tsl.nn.fuse(model)
        assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in fused.modules())
        x = cloud(dtype=torch.float64)
        clouds.assert_close(fused(x).feats, model.eval()(x).feats, tolerance=1e-12)


def test_fuse_keeps_names():
    """Names given by the user stay with what remains; plain numbers are counted anew."""
    layers = {
        "conv": tsl.nn.Conv3d(4, 4, 3),
        "norm": tsl.nn.BatchNorm(4),
        "relu": tsl.nn.ReLU(),
        "head": tsl.nn.Conv3d(4, 2, 1),
    }
    named = tsl.nn.Sequential(OrderedDict(layers))
    numbered = tsl.nn.Sequential(*layers.values())
    assert [name for name, _ in tsl.nn.fuse(named).named_children()] == ["conv", "head"]
    assert [name for name, _ in tsl.nn.fuse(numbered).named_children()] == ["0", "1"]
    assert [name for name, _ in named.named_children()] == list(layers)


def test_fuse_folds_into_a_parametrized_convolution():
    """The folded weight is a plain parameter; the model keeps what computes its own."""
    conv = torch.nn.utils.parametrizations.weight_norm(tsl.nn.Conv3d(4, 4, 3))
    net = tsl.nn.Sequential(conv, tsl.nn.BatchNorm(4))
    net(cloud())
    fused = tsl.nn.fuse(net)
    assert sorted(fused.state_dict()) == ["0.bias", "0.weight"]
    assert torch.nn.utils.parametrize.is_parametrized(conv)
    clouds.assert_close(fused(cloud()).feats, net.eval()(cloud()).feats, tolerance=1e-6)


@pytest.mark.parametrize("kind", [tsl.nn.Conv3d, tsl.nn.MaxPool3d, tsl.nn.Unpool3d])
def test_layers_show_their_window(kind):
    """As torch's layers do, one number per axis; None is worked out."""
    channels = (2, 2) if kind is tsl.nn.Conv3d else ()
    layer = kind(*channels, (3, 3, 1), 2)
    assert layer.kernel_size == (3, 3, 1)
    assert layer.stride == (2, 2, 2)
    assert layer.padding == (0, 0, 0)
    assert layer.dilation == (1, 1, 1)
    with pytest.raises(AttributeError):
        layer.stride = 3
    assert tsl.nn.Conv3d(2, 2, 3, dilation=2).padding == (2, 2, 2)
    assert tsl.nn.AvgPool3d(2).stride == (2, 2, 2)


def test_a_union_has_the_extent_of_both():
    """Elementwise the larger one, none if one is unbounded, in either order, in cat as well."""
    near, far = torch.tensor([[0, 1, 1, 1]]).int(), torch.tensor([[0, 5, 1, 8]]).int()
    for mine, theirs in ((near, far), (near, near)):
        for shapes, joint in (
            (((6, 6, 9), (9, 6, 9)), (9, 6, 9)),
            (((6, 9, 9), (9, 6, 9)), (9, 9, 9)),
            (((6, 6, 9), None), None),
            ((None, None), None),
        ):
            a = tsl.SparseTensor(torch.ones(1, 2), mine, spatial_shape=shapes[0])
            b = tsl.SparseTensor(torch.ones(1, 2), theirs, spatial_shape=shapes[1])
            for union in (a + b, b + a, a * b, b - a):
                assert union.spatial_shape == joint
            if mine is theirs:
                assert tsl.cat([a, b]).spatial_shape == tsl.cat([b, a]).spatial_shape == joint
                assert (a + a).level is a.level


@pytest.mark.parametrize("join", [lambda a, b: a + b, lambda a, b: tsl.cat([a, b])])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_skip_connection_may_come_first(join, is_first):
    """What is joined finds the encoder of either operand; nobody else is told of it."""
    x = cloud()
    down = tsf.max_pool3d(x, kernel_size=2)
    skip = tsl.SparseTensor(down.feats, down.coords, down.stride, batch_size=3)
    operands = (skip, down) if is_first else (down, skip)
    joint = join(*operands)
    assert tsf.upsample(joint, 2).level is x.level
    assert joint.level is operands[0].level
    assert (joint.manager is down.manager) != is_first
    with pytest.raises(ValueError, match="target"):
        tsf.upsample(skip, 2)


def test_a_union_finds_every_finer_level_of_both():
    """One operand comes from stride 1, the other from stride 2: the way up has both steps."""
    x = cloud()
    middle = tsf.max_pool3d(cloud()[torch.arange(len(x)) % 2 == 0], kernel_size=2)
    middle = tsl.SparseTensor(middle.feats, middle.coords, middle.stride, batch_size=3)
    for is_first in (True, False):
        one, two = tsf.max_pool3d(x, kernel_size=4), tsf.max_pool3d(middle, kernel_size=2)
        union = one + two if is_first else two + one
        up = tsf.upsample(union, 2)
        assert up.level is middle.level
        assert tsf.upsample(up, 2).level is x.level


def test_of_two_encoders_the_first_operands_counts():
    x, other = cloud(), cloud()[torch.arange(60 * 3) % 2 == 0]
    one, two = tsf.max_pool3d(x, kernel_size=2), tsf.max_pool3d(other, kernel_size=2)
    assert tsf.upsample(one + two, 2).level is x.level
    assert tsf.upsample(two + one, 2).level is other.level


class Net(torch.nn.Module):
    """Two layers and one that is never used."""

    def __init__(self, *, returns_feats):
        super().__init__()
        self.conv, self.norm = tsl.nn.Conv3d(4, 4, 3), tsl.nn.BatchNorm(4)
        if returns_feats:
            self.unused = tsl.nn.Linear(4, 4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y.feats if hasattr(self, "unused") else y


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("with_unused", [False, True])
def test_distributed_training_goes_on_over_an_empty_cloud(monkeypatch, with_unused):
    """One process; with unused parameters the network returns features, as the docs say."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        net = torch.nn.parallel.DistributedDataParallel(
            Net(returns_feats=with_unused), find_unused_parameters=with_unused
        )
        full = cloud()
        for x in (full, full[torch.zeros(len(full), dtype=torch.bool)], full):
            net.zero_grad()
            y = net(x)
            (y if with_unused else y.feats).square().sum().backward()
            assert net.module.norm.weight.grad is not None
            assert (net.module.norm.weight.grad.abs().sum() > 0) == (len(x) > 0)
    finally:
        distributed.destroy_process_group()


def test_pooling_in_half_precision_does_not_overflow(device):
    """A mean of eight 30,000s is 30,000 although their sum is beyond float16."""
    coords = clouds.solid_coords((2, 2, 2)).to(device)
    x = tsl.SparseTensor(torch.full((8, 3), 30000.0, device=device).half(), coords)
    assert tsf.avg_pool3d(x, kernel_size=2).feats.tolist() == [[30000.0] * 3]
    assert tsf.global_avg_pool(x).tolist() == [[30000.0] * 3]
    many = tsl.SparseTensor(
        torch.ones(4096, 1, device=device).half(), clouds.solid_coords((16, 16, 16)).to(device)
    )
    assert tsf.avg_pool3d(many, kernel_size=16).feats.item() == 1.0


def test_gradient_of_a_large_mean_in_half_precision(device):
    """A segment of more than 65,504 points, whose number float16 cannot hold."""
    feats = torch.zeros(70_000, 1, dtype=torch.float16, device=device).requires_grad_()
    order, ptr = torch.arange(70_000, device=device), torch.tensor([0, 70_000], device=device)
    mean, _ = ops.segment_reduce(feats, order, ptr, reduce="mean")
    (grad,) = torch.autograd.grad(mean.sum(), feats)
    assert torch.equal(grad, torch.full_like(grad, 1 / 70_000))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_means_in_half_have_rounded_float32_gradients(device, dtype):
    x = cloud(dtype=dtype, device=device)
    coarse = tsf.avg_pool3d(x, kernel_size=2)
    for tensor, pool in ((x, tsf.avg_pool3d), (coarse, tsf.unpool3d)):
        grads = []
        for kind in (dtype, torch.float32):
            feats = tensor.feats.to(kind).requires_grad_()
            out = pool(tensor.replace_feats(feats), kernel_size=2).feats
            ramp = torch.linspace(1, 2, out.numel(), device=device).to(dtype).reshape(out.shape)
            grads += torch.autograd.grad(out, feats, ramp.to(kind))
        assert torch.equal(grads[0], grads[1].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pools_in_half_are_the_rounded_float32_result(device, dtype):
    x = cloud(dtype=dtype, device=device)
    for mode in ("max", "avg", "sum"):
        pool = getattr(tsf, f"{mode}_pool3d")
        expected = pool(x.float(), kernel_size=3, stride=2, padding=1).feats.to(dtype)
        assert torch.equal(pool(x, kernel_size=3, stride=2, padding=1).feats, expected), mode


def test_upsample_gives_every_child_its_parent(device):
    """Nearest upsampling at factors 2, 3 and (2, 1, 1), by the encoder's sites or by a target."""
    x = cloud(device=device)
    for factor in (2, 3, (2, 1, 1)):
        coarse = tsf.max_pool3d(x, kernel_size=factor)
        parents = x.coords.cpu().clone()
        step = torch.tensor(oracle.triple(factor))
        parents[:, 1:] = parents[:, 1:].div(step, rounding_mode="floor")
        rows = clouds.row_lookup(coarse.coords.cpu(), parents).to(device)
        for y in (tsl.nn.Upsample(factor)(coarse), tsf.upsample(coarse, factor, target=x)):
            assert torch.equal(y.coords, x.coords)
            assert torch.equal(y.feats, coarse.feats[rows])


def test_unpool_averages_overlapping_windows(device):
    """k3 s2 p0 windows overlap: a fine site takes the mean of the coarse sites that see it."""
    x = cloud(device=device, dtype=torch.float64)
    coarse = tsf.sum_pool3d(x, kernel_size=3, stride=2)
    y = tsl.nn.Unpool3d(3, 2)(coarse)
    pairs = oracle.pairs_of(x.coords.cpu(), coarse.coords.cpu(), 3, 2)
    expected = oracle.pool(coarse.feats.cpu(), oracle.transpose_pairs(pairs), len(x), "avg")
    clouds.assert_close(
        harness.in_site_order(y, oracle.sites_of(x.coords.cpu())), expected, tolerance=1e-12
    )


def test_max_pool_propagates_nan(device):
    """As in torch: a NaN in the window is the maximum, not silently dropped."""
    x = cloud(device=device)
    x.feats[0, 0] = float("nan")
    assert torch.isnan(tsf.max_pool3d(x, kernel_size=2).feats).sum() == 1
    assert torch.isnan(tsf.global_max_pool(x)).sum() == 1


def test_pruning_keeps_features_shape_and_finer_sites(device):
    """x[mask] is a new level that convolves like a fresh tensor and still finds its encoder."""
    x = cloud(8, device=device)
    down = tsf.max_pool3d(x, kernel_size=2)
    mask = torch.arange(len(down), device=device) % 3 != 0
    pruned = down[mask]
    assert torch.equal(pruned.coords, down.coords[mask])
    assert torch.equal(pruned.feats, down.feats[mask])
    weight = harness.random_weight(3, 8, 8, dtype=torch.float32).to(device)
    fresh = tsl.SparseTensor(pruned.feats, pruned.coords, pruned.stride, batch_size=3)
    assert torch.equal(
        tsf.conv3d(pruned, weight, kernel_size=3).feats,
        tsf.conv3d(fresh, weight, kernel_size=3).feats,
    )
    up = tsf.conv3d(pruned, weight[:8], kernel_size=2, stride=2, transposed=True)
    assert torch.equal(up.coords, x.coords)


def test_second_derivatives():
    """The gradient of a gradient through submanifold, strided and depthwise convolution."""
    x = harness.sparse(clouds.signed_coords(8, low=-1, high=2), 2)
    for options in ({}, {"stride": 2, "padding": 1}, {"groups": 2}):
        weight = harness.random_weight(3, 2, 2, groups=options.get("groups", 1))
        inputs = (x.feats.clone().requires_grad_(), weight.requires_grad_())
        assert torch.autograd.gradgradcheck(
            lambda f, w, o=options: tsf.conv3d(x.replace_feats(f), w, kernel_size=3, **o).feats,
            inputs,
        )
