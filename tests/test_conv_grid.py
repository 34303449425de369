# SPDX-License-Identifier: MIT
"""Every convolution kind over a grid of geometries, forward and all gradients.

On a box with a spatial shape the reference is dense torch and its autograd; on clouds with negative
coordinates and no shape it is ``oracle.py``.
"""

from __future__ import annotations

import itertools

import clouds
import harness
import oracle
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

SHAPE = (7, 6, 5)
NUM = 40
CHANNELS = 4
KERNELS = [1, 2, 3, 4, 5, (3, 1, 1), (1, 3, 3)]
STRIDES = [1, 2, 3, (2, 1, 1)]
PADDINGS = [0, "same", (0, 1, 1)]
DILATIONS = [1, 2, 3]
BATCHES = [1, 3]
GROUPS = [1, CHANNELS]
DTYPES = [torch.float64, torch.float32]


def resolve(padding, kernel, dilation):
    return oracle.same_padding(kernel, dilation) if padding == "same" else oracle.triple(padding)


def label(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def grid(*axes):
    return [pytest.param(*case, id="-".join(map(label, case))) for case in itertools.product(*axes)]


def fits(kernel, stride, padding, dilation):
    """Whether any window fits into the box."""
    pad = resolve(padding, kernel, dilation)
    return min(oracle.output_shape(SHAPE, kernel, stride, dilation, pad)) > 0


ALL = grid(KERNELS, STRIDES, PADDINGS, DILATIONS, BATCHES, GROUPS)
FITTING = [param for param in ALL if fits(*param.values[:4])]
NAMES = ("kernel", "stride", "padding", "dilation", "batch", "groups")


class Case:
    """Coordinates, weight, bias and output gradient of one grid point.

    Rows are shuffled for one sample and in Morton order for several, so that both ways of finding
    sites and neighbours meet every geometry.
    """

    def __init__(self, kernel, batch, groups, *, signed=False):
        make = clouds.signed_coords if signed else clouds.box_coords
        size = {} if signed else {"shape": SHAPE}
        self.coords = make(num=NUM, batch_size=batch, seed=batch, **size)
        if batch > 1:
            self.coords = self.coords[clouds.morton_order(self.coords)]
        self.batch, self.groups = batch, groups
        self.c_out = CHANNELS if batch == 1 else 2 * CHANNELS
        self.weight = harness.random_weight(kernel, CHANNELS, self.c_out, groups=groups)
        self.bias = clouds.random_values(self.c_out, seed=2)

    def grad(self, rows):
        return clouds.random_values(rows, self.c_out, seed=3)

    def tensor(self, device, dtype=torch.float64, shape=SHAPE, stride=1):
        return harness.sparse(
            self.coords,
            CHANNELS,
            seed=4,
            dtype=dtype,
            device=device,
            spatial_shape=shape,
            batch_size=self.batch,
            stride=stride,
        )


def check(case, x, sites, expected, **options):
    """float64 and float32 runs of the product against one reference."""
    for dtype in DTYPES:
        actual = harness.evaluate(
            x.to(dtype),
            sites,
            case.weight,
            case.bias,
            case.grad(len(sites)),
            groups=case.groups,
            **options,
        )
        harness.compare(actual, expected, dtype)


@pytest.mark.parametrize(NAMES, ALL)
def test_strided(device, kernel, stride, padding, dilation, batch, groups):
    """Strided and stride-1 non-submanifold convolution against dense conv3d."""
    case = Case(kernel, batch, groups)
    args = (kernel, stride, dilation, resolve(padding, kernel, dilation))
    if not fits(kernel, stride, padding, dilation):
        x = case.tensor(device)
        y = tsf.conv3d(x, case.weight.to(device), submanifold=False, **named(args), groups=groups)
        assert y.shape == (0, case.c_out)
        return
    sites = oracle.coarse_sites(case.coords, *args, spatial_shape=SHAPE)
    x = case.tensor(device)
    expected = harness.dense_reference(
        harness.dense_conv(*args, groups),
        case.coords,
        x.feats,
        sites,
        case.weight,
        case.bias,
        case.grad(len(sites)),
        shape=SHAPE,
        batch_size=batch,
    )
    check(case, x, sites, expected, submanifold=False, **named(args))


def named(args):
    return dict(zip(("kernel_size", "stride", "dilation", "padding"), args, strict=True))


@pytest.mark.parametrize(
    ("kernel", "dilation", "batch", "groups"), grid(KERNELS, DILATIONS, BATCHES, GROUPS)
)
@pytest.mark.parametrize("order", ["shuffled", "morton"])
def test_submanifold(device, kernel, dilation, batch, groups, order):
    """Submanifold convolution against dense conv3d with padding "same", in both row orders."""
    case = Case(kernel, batch, groups)
    row_order = clouds.morton_order(case.coords)
    case.coords = case.coords[row_order if order == "morton" else row_order.flip(0)]
    x = case.tensor(device)
    assert x.level.is_morton == (order == "morton")
    sites = oracle.sites_of(case.coords)
    expected = harness.dense_reference(
        harness.dense_submanifold(kernel, dilation, groups),
        case.coords,
        x.feats,
        sites,
        case.weight,
        case.bias,
        case.grad(len(sites)),
        shape=SHAPE,
        batch_size=batch,
    )
    check(case, x, sites, expected, kernel_size=kernel, dilation=dilation)


@pytest.mark.parametrize(NAMES, FITTING)
def test_transposed_onto_known_sites(device, kernel, stride, padding, dilation, batch, groups):
    """Back onto the encoder's sites: found by the manager when strided, by ``target`` otherwise."""
    case = Case(kernel, batch, groups)
    args = (kernel, stride, dilation, resolve(padding, kernel, dilation))
    extent = oracle.output_shape(SHAPE, *args)
    coarse_sites = oracle.coarse_sites(case.coords, *args, spatial_shape=SHAPE)
    fine = case.tensor(device)
    coarse = tsf.conv3d(
        fine, case.weight.to(device), groups=groups, submanifold=False, **named(args)
    )
    assert coarse.spatial_shape == extent
    feats = clouds.random_values(len(coarse_sites), CHANNELS, seed=5)
    rows = clouds.row_lookup(coarse_sites, coarse.coords.cpu())
    sites = oracle.sites_of(case.coords)
    rest = zip(SHAPE, extent, *map(oracle.triple, args), strict=True)
    left_over = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, d, p in rest]
    expected = harness.dense_reference(
        harness.dense_transposed(*args, groups, left_over),
        coarse_sites,
        feats,
        sites,
        case.weight,
        case.bias,
        case.grad(len(sites)),
        shape=extent,
        batch_size=batch,
    )
    expected = (expected[0], expected[1][rows], *expected[2:])
    y = coarse.replace_feats(feats[rows].to(device))
    target = fine if oracle.triple(stride) == (1, 1, 1) else None
    check(case, y, sites, expected, transposed=True, target=target, **named(args))


@pytest.mark.parametrize(NAMES, ALL)
def test_generative(device, kernel, stride, padding, dilation, batch, groups):
    """All sites the kernel reaches, against dense conv_transpose3d; padding only moves them."""
    case = Case(kernel, batch, groups)
    args = (kernel, stride, dilation, resolve(padding, kernel, dilation))
    sites = oracle.fine_sites(case.coords, *args)
    moved = [(b, *(c + p for c, p in zip(xyz, args[3], strict=True))) for b, *xyz in sites]
    x = case.tensor(device, shape=None, stride=stride)
    expected = harness.dense_reference(
        harness.dense_transposed(kernel, stride, dilation, 0, groups),
        case.coords,
        x.feats,
        moved,
        case.weight,
        case.bias,
        case.grad(len(sites)),
        shape=SHAPE,
        batch_size=batch,
    )
    check(case, x, sites, expected, transposed=True, generative=True, **named(args))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), grid(KERNELS, STRIDES, PADDINGS, DILATIONS)
)
@pytest.mark.parametrize("rule", ["full", "cell"])
def test_signed_strided(device, kernel, stride, padding, dilation, rule):
    """Negative coordinates, no spatial shape, both stride rules, against the oracle."""
    batch, groups = (3, 1) if dilation == 2 and kernel != 5 else (1, CHANNELS)
    case = Case(kernel, batch, groups, signed=True)
    args = (kernel, stride, dilation, resolve(padding, kernel, dilation))
    sites = oracle.coarse_sites(case.coords, *args, rule=rule)
    pairs = oracle.pairs_of(case.coords, sites, *args)
    x = case.tensor(device, shape=None)
    expected = harness.reference(
        pairs,
        x.feats.cpu(),
        len(sites),
        case.weight,
        case.bias,
        case.grad(len(sites)),
        groups=groups,
    )
    check(case, x, sites, expected, submanifold=False, rule=rule, **named(args))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), grid(KERNELS, STRIDES, PADDINGS, DILATIONS)
)
def test_signed_transposed(device, kernel, stride, padding, dilation):
    """Signed coordinates through a strided convolution and back onto the encoder's sites."""
    case = Case(kernel, 1, 1, signed=True)
    args = (kernel, stride, dilation, resolve(padding, kernel, dilation))
    coarse_sites = oracle.coarse_sites(case.coords, *args)
    fine = case.tensor(device, shape=None)
    coarse = tsf.conv3d(fine, case.weight.to(device), submanifold=False, **named(args))
    y = coarse.replace_feats(
        clouds.random_values(len(coarse_sites), CHANNELS, seed=5).to(device=device)
    )
    pairs = oracle.transpose_pairs(oracle.pairs_of(case.coords, y.coords.cpu(), *args))
    sites = oracle.sites_of(case.coords)
    expected = harness.reference(
        pairs, y.feats.cpu(), len(sites), case.weight, case.bias, case.grad(len(sites))
    )
    target = fine if oracle.triple(stride) == (1, 1, 1) else None
    check(case, y, sites, expected, transposed=True, target=target, **named(args))


@pytest.mark.parametrize(
    ("kernel", "dilation", "groups"), grid([*KERNELS, (2, 3, 4)], DILATIONS, GROUPS)
)
def test_signed_submanifold(device, kernel, dilation, groups):
    """Submanifold convolution over negative coordinates, against the oracle."""
    case = Case(kernel, 3, groups, signed=True)
    args = (kernel, 1, dilation, oracle.same_padding(kernel, dilation))
    pairs = oracle.pairs_of(case.coords, case.coords, *args)
    sites = oracle.sites_of(case.coords)
    x = case.tensor(device, shape=None)
    expected = harness.reference(
        pairs,
        x.feats.cpu(),
        len(sites),
        case.weight,
        case.bias,
        case.grad(len(sites)),
        groups=groups,
    )
    check(case, x, sites, expected, kernel_size=kernel, dilation=dilation)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [2, 3])
def test_generative_with_a_shape_is_clipped_as_torch(device, stride, padding):
    """With a spatial shape the reached sites are those inside ConvTranspose3d's output."""
    case = Case(3, 1, 1)
    x = case.tensor(device, stride=stride)
    extent = tuple((n - 1) * stride - 2 * padding + 3 for n in SHAPE)
    reached = oracle.fine_sites(case.coords, 3, stride, 1, padding)
    sites = [site for site in reached if oracle.inside(site[1:], extent)]
    expected = harness.dense_reference(
        harness.dense_transposed(3, stride, 1, padding),
        case.coords,
        x.feats,
        sites,
        case.weight,
        case.bias,
        case.grad(len(sites)),
        shape=SHAPE,
        batch_size=1,
    )
    check(
        case,
        x,
        sites,
        expected,
        kernel_size=3,
        stride=stride,
        padding=padding,
        transposed=True,
        generative=True,
    )


@pytest.mark.parametrize("kind", ["submanifold", "strided", "transposed", "generative"])
def test_module_is_the_function(device, kind):
    """nn.Conv3d and functional.conv3d agree bitwise; the weight is (K, C_in, C_out)."""
    case = Case(3, 1, 1)
    options = {
        "submanifold": {},
        "strided": {"stride": 2, "padding": 1},
        "transposed": {"stride": 2, "padding": 1, "transposed": True},
        "generative": {"stride": 2, "padding": 1, "transposed": True, "generative": True},
    }[kind]
    tensor_stride = 2 if kind == "generative" else 1
    x = case.tensor(device, torch.float32, shape=None, stride=tensor_stride)
    if kind == "transposed":
        x = tsf.conv3d(x, x.feats.new_ones(27, 4, 4), kernel_size=3, stride=2, padding=1)
    layer = tsl.nn.Conv3d(4, 8, 3, **options).to(device)
    assert layer.weight.shape == (27, 4, 8)
    assert layer.bias.shape == (8,)
    y = layer(x)
    z = tsf.conv3d(x, layer.weight, layer.bias, kernel_size=3, **options)
    assert torch.equal(y.coords, z.coords)
    assert torch.equal(y.feats, z.feats)
