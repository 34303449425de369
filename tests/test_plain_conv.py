# SPDX-License-Identifier: MIT
"""The convolution by torch alone, on the CPU: against the CPU's kernels, the oracle and itself."""

from __future__ import annotations

import clouds
import harness
import oracle
import pytest
import torch
from house_form import provoke
from test_gradcheck import CONVS, make_input
from torch.autograd import gradcheck, gradgradcheck

import torchsparse_lite as tsl
from benchmarks.plainly import Plainly
from torchsparse_lite import ops
from torchsparse_lite.nn import functional as tsf
from torchsparse_lite.ops import plain_conv
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.map_arrays import MapArrays, Pairs

CUBE = tsl.ConvGeometry.same(3)
HALVES = [torch.float16, torch.bfloat16]
WIDE = [torch.float64, torch.float32]


def forward_backward(x, kind, *, groups=1, relu=False, with_residual=False, c_out=4):
    """Output and gradients of feats, weight, bias and residual."""
    kernel = CONVS[kind]["kernel_size"]
    place = {"dtype": x.dtype}
    leaves = [
        x.feats.clone(),
        harness.random_weight(kernel, x.num_channels, c_out, groups=groups, **place),
        clouds.random_values(c_out, seed=2, **place),
    ]
    shape = tsf.conv3d(x, leaves[1], groups=groups, **CONVS[kind])
    if with_residual:
        leaves.append(clouds.random_values(len(shape), c_out, seed=3, **place))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    residual = shape.replace_feats(leaves[3]) if with_residual else None
    out = tsf.conv3d(
        x.replace_feats(leaves[0]),
        leaves[1],
        leaves[2],
        groups=groups,
        relu=relu,
        residual=residual,
        **CONVS[kind],
    ).feats
    grad = clouds.random_values(*out.shape, seed=5, **place)
    return out, *torch.autograd.grad(out, leaves, grad)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", WIDE)
def test_it_gives_what_the_kernels_give(kind, groups, dtype):
    """Forward and all gradients, with and without residual and ReLU, and with more outputs."""
    x = make_input(kind, num=50, dtype=dtype)
    for options in ({}, {"relu": True}, {"with_residual": True, "relu": True}, {"c_out": 8}):
        expected = forward_backward(x, kind, groups=groups, **options)
        with Plainly():
            actual = forward_backward(x, kind, groups=groups, **options)
        for got, want in zip(actual, expected, strict=True):
            assert got.dtype == want.dtype
            clouds.assert_close(got, want, tolerance=clouds.TOLERANCE[dtype])


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 3), ((1, 2, 4), 1)])
def test_it_gives_what_the_oracle_gives(count, kernel, groups):
    """In float64, for ragged sizes and for no sites at all."""
    coords = clouds.signed_coords(max(count, 1), low=-3, high=3)[:count]
    x = harness.sparse(coords, 3)
    weight = harness.random_weight(kernel, 3, 6, groups=groups)
    bias, grad = clouds.random_values(6, seed=2), clouds.random_values(count, 6, seed=3)
    pairs = oracle.pairs_of(coords, coords, kernel, padding=oracle.same_padding(kernel))
    with Plainly():
        actual = harness.evaluate(x, coords, weight, bias, grad, kernel_size=kernel, groups=groups)
    expected = harness.reference(pairs, x.feats, count, weight, bias, grad, groups=groups)
    harness.compare(actual, expected, torch.float64)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_differentiates_twice(kind, groups):
    x = make_input(kind, num=8)
    weight = harness.random_weight(CONVS[kind]["kernel_size"], 4, 4, groups=groups)
    inputs = (x.feats.clone().requires_grad_(), weight.requires_grad_())

    def run(feats, weight):
        return tsf.conv3d(x.replace_feats(feats), weight, groups=groups, **CONVS[kind]).feats

    with Plainly():
        assert gradcheck(run, inputs, fast_mode=True)
        assert gradgradcheck(run, inputs, fast_mode=True)


def test_by_hand():
    """Two taps; tap 1 reads row 0 for output 1 and row 2 for output 0."""
    pairs = Pairs(arrays([0, 1, 2, 0], [0, 2, 0, 1], [[0, 2], [2, 4]]), None, 3)
    feats = torch.tensor([[1.0], [10.0], [100.0]])
    weight = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]])
    bias = torch.tensor([0.5, 0.0])
    with Plainly():
        out = ops.sparse_conv(feats, weight, pairs, bias=bias)
        clipped = ops.sparse_conv(feats, weight, pairs, bias=bias, relu=True)
        grad = ops.sparse_conv_weight_grad(feats, torch.eye(3)[:, :2].contiguous(), pairs)
    assert out.tolist() == [[301.5, -98.0], [3.5, -1.0], [10.5, 20.0]]
    assert torch.equal(clipped, out.clamp_min(0))
    assert grad.tolist() == [[[1.0, 0.0]], [[100.0, 1.0]]]


def arrays(in_index, out_index, tile_ptr):
    rows = [torch.tensor(index, dtype=torch.int32) for index in (in_index, out_index)]
    return MapArrays.of([*rows, torch.tensor(tile_ptr)])


def scan_map(extent=24, channels=16, dtype=torch.float32):
    """Features on a surface and the map of a submanifold 3 x 3 x 3 kernel."""
    coords = clouds.surface_coords(extent)
    x = harness.sparse(coords, channels, dtype=dtype)
    return x.feats, x.manager.submanifold(x.level, CUBE)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("groups", [1, 2, 16])
def test_halves_are_summed_in_float32_and_rounded_once(dtype, groups):
    feats, kernel_map = scan_map(dtype=dtype)
    pairs = kernel_map.pairs(with_backward=False)
    weight = harness.random_weight(3, 16, 16, groups=groups, dtype=dtype)
    bias = clouds.random_values(16, seed=2, dtype=dtype)
    residual = clouds.random_values(*feats.shape, seed=3, dtype=dtype)
    narrow, wide = (feats, weight, bias, residual), []
    wide = [tensor.float() for tensor in narrow]
    with Plainly():
        results = [
            ops.sparse_conv(f, w, pairs, bias=b, residual=r, groups=groups, relu=True)
            for f, w, b, r in (narrow, wide)
        ]
        grads = [
            ops.sparse_conv_weight_grad(f, r, pairs, groups=groups) for f, _, _, r in (narrow, wide)
        ]
    assert results[0].dtype == dtype
    assert torch.equal(results[0], results[1].to(dtype))
    assert grads[0].dtype == torch.float32
    assert torch.equal(*grads)


def test_the_error_is_as_small_as_stated():
    """2^-24 of the sum of magnitudes for each product, and the rounding of the result."""
    feats, kernel_map = scan_map()
    pairs = kernel_map.pairs(with_backward=False)
    weight = harness.random_weight(3, 16, 8, dtype=torch.float32)
    ones = torch.ones(27, 16, 8)
    with Plainly():
        out = ops.sparse_conv(feats, weight, pairs).double()
        exact = ops.sparse_conv(feats.double(), weight.double(), pairs)
        size = ops.sparse_conv(feats.double().abs(), weight.double().abs(), pairs)
        terms = ops.sparse_conv(torch.ones_like(feats), ones, pairs).double()
    assert bool(((out - exact).abs() <= 2**-24 * (terms * size + exact.abs())).all())


def test_autocast_narrows_the_operator_and_not_its_sums():
    """Inside autocast the weight gradient stays what it is, and feats become bfloat16."""
    feats, kernel_map = scan_map()
    pairs = kernel_map.pairs(with_backward=False)
    weight = harness.random_weight(3, 16, 16, dtype=torch.float32)
    with Plainly():
        expected = ops.sparse_conv_weight_grad(feats, feats, pairs)
        out = ops.sparse_conv(feats.bfloat16(), weight.bfloat16(), pairs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ops.sparse_conv_weight_grad(feats, feats, pairs), expected)
            cast = ops.sparse_conv(feats, weight, pairs)
    assert cast.dtype == torch.bfloat16
    assert torch.equal(cast, out)


def test_layers_without_channels():
    feats, kernel_map = scan_map(channels=0)
    pairs = kernel_map.pairs(with_backward=False)
    bias = torch.ones(2)
    with Plainly():
        out = ops.sparse_conv(feats, torch.empty(27, 0, 2), pairs, bias=bias)
        grad = ops.sparse_conv_weight_grad(feats, out, pairs)
        none = ops.sparse_conv(out, torch.empty(27, 2, 0), pairs)
    assert torch.equal(out, bias.expand_as(out))
    assert grad.shape == (27, 0, 2)
    assert none.shape == (len(feats), 0)


@pytest.mark.parametrize("geometry", [CUBE, tsl.ConvGeometry((2, 2, 2), (2, 2, 2))])
def test_without_the_taps_on_the_host_they_are_read(geometry):
    x = make_input("submanifold", 4, num=60)
    coarse = x.level if geometry is CUBE else x.manager.strided(x.level, geometry)
    kernel_map = x.manager.kernel_map(x.level, coarse, geometry)
    known = kernel_map.pairs(with_backward=False)
    read = Pairs(known.forward, None, known.num_out, known.is_symmetric, known.full_tap)
    weight = harness.random_weight(geometry.kernel_size, 4, 4)
    with Plainly():
        results = [ops.sparse_conv(x.feats, weight, pairs) for pairs in (known, read)]
        grads = [ops.sparse_conv_weight_grad(x.feats, results[0], pairs) for pairs in (known, read)]
    assert torch.equal(*results)
    assert torch.equal(*grads)


@pytest.mark.parametrize("taps", [None, (0, 13, 26), (1, 2)])
def test_a_map_reads_where_its_taps_begin_once(taps, monkeypatch):
    """And so do its transpose and the maps of fewer taps together with it."""
    x = make_input("submanifold", 4, num=60)
    geometry = tsl.ConvGeometry((3, 3, 3), padding=(1, 1, 1), taps=taps)
    reads = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: reads.append(t) or to_cpu(t))
    kernel_map = x.manager.submanifold(x.level, geometry)
    for made in (kernel_map, kernel_map.transposed):
        for _ in range(2):
            tap_ptr = made.pairs(with_backward=True).tap_ptr
            assert torch.equal(tap_ptr, made.tap_ptr)
            assert tap_ptr.device.type == "cpu"
    assert len(reads) == 1
    alone = tsl.KernelMap.identity(5, torch.device("cpu")).pairs(with_backward=False)
    assert alone.tap_ptr.tolist() == [0, 5]
    assert len(reads) == 1


def call(which, value):
    """A convolution with one argument replaced, below the operator."""
    feats, kernel_map = scan_map(8, 4)
    known = kernel_map.pairs(with_backward=False)
    whole = ConvCall(
        feats,
        weight=torch.ones(27, 4, 6),
        bias=None,
        residual=None,
        pairs=known.forward.flat(),
        backward_pairs=[],
        num_out=len(feats),
        is_symmetric=True,
        tap_ptr=known.tap_ptr,
    )
    changed = value(getattr(whole, which)) if callable(value) else value
    return lambda: plain_conv.sparse_conv(whole._replace(**{which: changed}))


def at(tensor, entry, value):
    changed = tensor.clone()
    changed[entry] = value
    return changed


@pytest.mark.parametrize(
    ("kind", "which", "value", "words"),
    [
        (ValueError, "weight", torch.ones(26, 4, 6), ["weight", "(27, 4, 6)"]),
        (ValueError, "weight", torch.ones(27, 3, 6), ["weight", "(27, 4, 6)"]),
        (TypeError, "weight", torch.ones(27, 4, 6).half(), ["weight", "float32"]),
        (ValueError, "bias", torch.ones(5), ["bias", "(6)"]),
        (TypeError, "bias", torch.ones(6).double(), ["bias", "float32"]),
        (ValueError, "residual", torch.ones(1, 6), ["residual", "6)"]),
        (ValueError, "groups", 3, ["groups", "(4 and 6)", "3"]),
        (ValueError, "groups", 4, ["groups", "(4 and 6)", "4"]),
        (ValueError, "groups", 0, ["groups", "0"]),
        (ValueError, "full_tap", 0, ["full_tap", "tap 0 with"]),
        (ValueError, "full_tap", 27, ["full_tap", "tap 27 with 0"]),
        (ValueError, "full_tap", -2, ["full_tap", "tap -2 with 0"]),
        (ValueError, "tap_ptr", torch.zeros(3).long(), ["tap_ptr", "(28)"]),
        (ValueError, "tap_ptr", lambda ptr: at(ptr, 3, -1), ["tap_ptr", "ascending inside"]),
        (ValueError, "tap_ptr", lambda ptr: at(ptr, 0, -1), ["tap_ptr", "ascending inside"]),
        (ValueError, "tap_ptr", lambda ptr: at(ptr, -1, 10**9), ["tap_ptr", "ascending inside"]),
        (ValueError, "pairs", lambda p: [p[0], p[1][:-1], p[2]], ["tap_ptr", "number of pairs"]),
    ],
)
def test_what_does_not_fit_is_refused(kind, which, value, words):
    provoke(kind, ["sparse_conv", *words], call(which, value))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("row", [-1, 10**9])
def test_rows_that_do_not_exist_are_refused_by_torch(side, row):
    def broken(pairs):
        return [at(array, 5, row) if place == side else array for place, array in enumerate(pairs)]

    with pytest.raises(IndexError):
        call("pairs", broken)()


def test_weight_gradients_refuse_what_does_not_fit():
    feats, kernel_map = scan_map(8, 4)
    pairs = kernel_map.pairs(with_backward=False).forward.flat()
    grad, ptr = torch.ones(len(feats), 6), kernel_map.tap_ptr
    run = plain_conv.sparse_conv_weight_grad
    words = ["sparse_conv_weight_grad: groups", "4 and 6"]
    provoke(ValueError, words, lambda: run(feats, grad, pairs, 4, ptr))
    provoke(TypeError, ["grad_out", "float32"], lambda: run(feats, grad.double(), pairs, 1, ptr))
    provoke(ValueError, ["tap_ptr", "(28)"], lambda: run(feats, grad, pairs, 1, ptr[1:]))


def test_lists_read_backwards_give_the_same_weight_gradient():
    """Inside a tap the output rows of a weight gradient may come in any order."""
    feats, kernel_map = scan_map(12, 4, dtype=torch.float64)
    pairs = kernel_map.pairs(with_backward=False).forward.lists
    back = pairs.transposed(len(feats))
    grad = clouds.random_values(len(feats), 6, seed=1)
    run = plain_conv.sparse_conv_weight_grad
    swapped = run(
        feats, grad, [back.out_index, back.in_index, back.tile_ptr], 1, kernel_map.tap_ptr
    )
    expected = run(feats, grad, pairs, 1, kernel_map.tap_ptr)
    clouds.assert_close(swapped, expected, tolerance=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_products_may_be_of_any_number_of_rows(rows, groups, monkeypatch):
    """A tap whose pairs fill several products, the last one not."""
    x = make_input("submanifold", num=50, dtype=torch.float64)
    expected = forward_backward(x, "submanifold", groups=groups)
    monkeypatch.setattr(plain_conv, "_ROWS", rows)
    with Plainly():
        actual = forward_backward(x, "submanifold", groups=groups)
    for got, want in zip(actual, expected, strict=True):
        clouds.assert_close(got, want, tolerance=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_sample_does_not_depend_on_its_batch_mates(dtype, groups):
    """Its output is the same bits, alone or with others, who also change the order of its rows."""
    coords = clouds.signed_coords(60, batch_size=3)
    x = harness.sparse(coords, 16, dtype=dtype)
    weight = harness.random_weight(3, 16, 16, groups=groups, dtype=dtype)
    with Plainly():
        whole = tsf.conv3d(x, weight, kernel_size=3, groups=groups).feats
        for batch in range(3):
            mine = coords[:, 0] == batch
            rows = mine.nonzero().flatten().flip(0)
            own = coords[rows] - torch.tensor([batch, 0, 0, 0], dtype=torch.int32)
            alone = tsl.SparseTensor(x.feats[rows], own)
            out = tsf.conv3d(alone, weight, kernel_size=3, groups=groups).feats
            assert torch.equal(out, whole[rows])
