# SPDX-License-Identifier: MIT
"""Sums of convolutions, over tensors side by side: the operator, and fused networks that use it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import clouds
import pytest
import torch
from test_conv_dispatch import pretend_tensor_cores, with_view
from test_cuda_gemm import kernel_map
from test_models import TINY, settle
from torch.autograd import gradcheck, gradgradcheck

import torchsparse_lite as tsl
from benchmarks.plainly import Plainly
from torchsparse_lite import models, ops
from torchsparse_lite import nn as spnn
from torchsparse_lite._native import C
from torchsparse_lite.nn.conv_sum import over_sides, reads_sides, sum_convs
from torchsparse_lite.ops import ConvTerm, dataflow, gemm, plain_conv, sparse_conv, sparse_conv_sum
from torchsparse_lite.ops.sparse_conv_sum import SumCall, _in_one_pass

MINKUNET = sys.modules[models.MinkUNet.__module__]  # models has a function of the module's name
CONV_DATAFLOW = dataflow.conv_dataflow
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def pairs_of(found):
    """A map's arrays with the view of implicit GEMM, as they are on a GPU."""
    return with_view(found.pairs(with_backward=False), found)


def term_of(found, widths, out_channels=6, *, seed=0, dtype=torch.float64, bias=True):
    feats = [
        clouds.random_values(found.num_in, width, seed=seed + i, dtype=dtype)
        for i, width in enumerate(widths)
    ]
    volume = found.geometry.kernel_volume
    weight = clouds.random_values(volume, sum(widths), out_channels, seed=seed + 7, dtype=dtype)
    offset = clouds.random_values(out_channels, seed=seed + 8, dtype=dtype) if bias else None
    return ConvTerm(tuple(feats), weight, pairs_of(found), offset)


def block_terms(**options):
    """The end of a decoder's first block: a convolution, and a projection of two tensors."""
    cube, centre = kernel_map("cpu"), kernel_map("cpu", 1)
    return [term_of(cube, [5], **options), term_of(centre, [3, 4], seed=20, **options)]


def spelt_out(first, second, residual=None, *, relu=False):
    """As two calls of the convolution."""
    feats = torch.cat(second.feats, dim=1)
    other = sparse_conv(feats, second.weight, second.pairs, bias=second.bias, residual=residual)
    return sparse_conv(
        *first.feats, first.weight, first.pairs, bias=first.bias, residual=other, relu=relu
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
def test_it_is_a_chain_of_convolutions_bit_for_bit(dtype, relu):
    terms = block_terms(dtype=dtype)
    residual = clouds.random_values(terms[0].pairs.num_out, 6, seed=30, dtype=dtype)
    out = sparse_conv_sum(terms, residual=residual, relu=relu)
    assert torch.equal(out, spelt_out(*terms, residual, relu=relu))
    first, second = (replace(term, bias=None) for term in terms)
    assert torch.equal(sparse_conv_sum([first, second]), spelt_out(first, second))
    assert torch.equal(
        sparse_conv_sum([first]), sparse_conv(*first.feats, first.weight, first.pairs)
    )


def test_what_stands_for_convolutions_stands_for_those_of_a_sum(monkeypatch):
    seen = []
    plain = plain_conv.sparse_conv
    monkeypatch.setattr(plain_conv, "sparse_conv", lambda *a: seen.append(a) or plain(*a))
    terms = block_terms()
    with Plainly():
        out = sparse_conv_sum(terms)
    assert len(seen) == 2
    clouds.assert_close(out, sparse_conv_sum(terms), tolerance=1e-12)


def test_it_is_differentiable_twice():
    terms = block_terms()
    small = [
        replace(term, pairs=kernel_pairs(8, size)) for term, size in zip(terms, (3, 1), strict=True)
    ]
    rows = small[0].pairs.num_out
    small = [replace(t, feats=tuple(f[:rows] for f in t.feats)) for t in small]
    residual = clouds.random_values(rows, 6, seed=30)

    def run(*values):
        a, wa, ba, b, c, wb, bb, r = values
        one = replace(small[0], feats=(a,), weight=wa, bias=ba)
        two = replace(small[1], feats=(b, c), weight=wb, bias=bb)
        return sparse_conv_sum([one, two], residual=r)

    operands = [*small[0].feats, small[0].weight, small[0].bias]
    operands += [*small[1].feats, small[1].weight, small[1].bias, residual]
    leaves = [value.clone().requires_grad_() for value in operands]
    assert gradcheck(run, leaves, fast_mode=True)
    assert gradgradcheck(run, leaves, fast_mode=True)


def kernel_pairs(extent, kernel_size):
    coords = clouds.surface_coords(extent)
    x = tsl.SparseTensor(torch.zeros(len(coords), 1), coords)
    found = x.manager.submanifold(x.level, tsl.ConvGeometry.same(kernel_size))
    return found.pairs(with_backward=True)


def test_only_maps_of_own_rows_are_the_identity():
    sizes = {size: kernel_map("cpu", size).is_identity for size in (1, 2, 3)}
    assert sizes == {1: True, 2: False, 3: False}
    found = kernel_map("cpu")
    assert found.select([13]).is_identity
    assert not found.select([12]).is_identity
    assert found.pairs(with_backward=False).is_identity is False
    centre = kernel_map("cpu", 1)
    assert centre.pairs(with_backward=False).is_identity
    rows = torch.arange(centre.num_out + 1)
    mask, ptr, inputs = centre.neighbors
    assert torch.equal(mask, torch.ones(centre.num_out, 1, dtype=torch.int32))
    assert torch.equal(ptr, rows)
    assert torch.equal(inputs, rows[:-1].int())
    assert torch.equal(centre.row_order, inputs)


@pytest.fixture
def passes(monkeypatch):
    """A GPU's sums on the CPU, with tensor cores that say what they were given."""
    made = []

    def implicit_gemm_sum(parts, order, **options):
        made.append((parts, order, options))
        return parts[0].feats.new_zeros((len(order), options["out_channels"]))

    monkeypatch.setattr(gemm, "implicit_gemm_sum", implicit_gemm_sum)
    monkeypatch.setattr(gemm, "pack_weight", lambda weight, **_: weight)
    pretend_tensor_cores(monkeypatch)
    return made


def in_one_pass(terms):
    return _in_one_pass(SumCall.of(terms, None, relu=False))


def test_what_goes_to_tensor_cores(passes):
    """A part for each tensor, with its channels of the weight; own rows need no table."""
    first, second = terms = block_terms()
    residual = clouds.random_values(first.pairs.num_out, 6)
    out = _in_one_pass(SumCall.of(terms, residual, relu=True))
    assert out.shape == (first.pairs.num_out, 6)
    ((parts, order, options),) = passes
    feats, packed, tables = zip(*parts, strict=True)
    assert all(a is b for a, b in zip(feats, (*first.feats, *second.feats), strict=True))
    weights = (first.weight, second.weight[:, :3], second.weight[:, 3:])
    assert all(torch.equal(a, b) for a, b in zip(packed, weights, strict=True))
    assert all(a is b for a, b in zip(tables[0], first.pairs.forward.view.table, strict=True))
    assert tables[1:] == (None, None)
    assert order is first.pairs.forward.view.order
    assert all(a is b for a, b in zip(options["biases"], (first.bias, second.bias), strict=True))
    assert options["residual"] is residual
    assert (options["out_channels"], options["relu"]) == (6, True)


def test_the_order_is_that_of_a_table_and_packed_weights_are_taken(passes):
    cube, centre = kernel_map("cpu"), kernel_map("cpu", 1)
    terms = [term_of(centre, [4], bias=False), term_of(cube, [3, 5])]
    kept = [torch.zeros(1), torch.ones(1), torch.ones(2)]
    _in_one_pass(SumCall.of(terms, None, relu=False)._replace(packed=kept))
    ((parts, order, options),) = passes
    assert all(part.packed is own for part, own in zip(parts, kept, strict=True))
    assert parts[1].table[0] is parts[2].table[0] is terms[1].pairs.forward.view.mask
    assert order is terms[1].pairs.forward.view.order
    assert [bias is terms[1].bias for bias in options["biases"]] == [True]


def test_what_does_not_go_to_tensor_cores(passes, monkeypatch):
    """Too many parts, maps without the view of implicit GEMM, types that are not theirs."""
    terms = block_terms()
    cube = kernel_map("cpu")
    many = [term_of(cube, [1, 2, 1]), term_of(cube, [2, 1], seed=5)]
    plain = [
        replace(term, pairs=kernel_map("cpu", size).pairs(with_backward=False))
        for term, size in zip(terms, (3, 1), strict=True)
    ]
    for given in (many, plain):
        assert torch.equal(in_one_pass(given), sparse_conv_sum(given))
    monkeypatch.setattr(dataflow, "conv_dataflow", CONV_DATAFLOW)
    assert torch.equal(in_one_pass(terms), sparse_conv_sum(terms))
    assert not passes


def test_operands_that_do_not_fit_are_refused(passes):
    first, second = block_terms()
    for wrong in (second.weight[:, :-1], second.weight[..., :-1], second.weight.repeat(2, 1, 1)):
        with pytest.raises(
            ValueError, match=r"sparse_conv_sum: weight must be of shape \(1, 7, 6\)"
        ):
            in_one_pass([first, replace(second, weight=wrong)])
    single = replace(second, weight=second.weight.float())
    with pytest.raises(TypeError, match="sparse_conv_sum: weight must be of dtype float64"):
        in_one_pass([first, single])
    for terms in ([], [replace(first, feats=())]):
        with pytest.raises(ValueError, match="sparse_conv_sum: terms must be at least one"):
            sparse_conv_sum(terms)
    assert not passes


def test_features_that_are_summed_in_one_pass(monkeypatch):
    """In inference on tensor cores alone."""
    feats = torch.zeros(2, 8)
    assert not ops.sums_in_one_pass(feats)
    pretend_tensor_cores(monkeypatch)
    assert not ops.sums_in_one_pass(feats)
    with torch.no_grad():
        assert ops.sums_in_one_pass(feats, feats)
        assert not ops.sums_in_one_pass(feats, feats.half())
        with torch.autocast("cpu"):
            assert not ops.sums_in_one_pass(feats)


def cloud(channels=6, extent=20):
    coords = clouds.surface_coords(extent)
    feats = clouds.random_values(len(coords), channels, dtype=torch.float32)
    return tsl.SparseTensor(feats, coords)


@pytest.fixture
def tensor_cores(monkeypatch):
    """Tensor cores on the CPU: sums are one call of the operator, whose results are the CPU's."""
    calls = []
    operator = ops.sparse_conv_sum

    def recorded(terms, **options):
        calls.append([len(term.feats) for term in terms])
        return operator(terms, **options)

    pretend_tensor_cores(monkeypatch)
    monkeypatch.setattr(gemm, "pack_weight", lambda weight, **_: weight.new_empty(0).int())
    monkeypatch.setattr(ops, "sparse_conv_sum", recorded)
    return calls


@pytest.mark.parametrize("block", models.blocks.BLOCKS)
@torch.no_grad()
def test_fused_blocks_compute_what_they_did(block):
    """Bit for bit: the shortcut is the residual of the last convolution."""
    x = cloud()
    for out_channels in (8, 6):
        made = settle(models.blocks.BLOCKS[block](6, out_channels, 5))
        fused = spnn.fuse(made)
        expected = fused.last(fused.parts(x), residual=fused.shortcut(x), relu=True)
        assert torch.equal(fused(x).feats, expected.feats)


@torch.no_grad()
def test_fused_decoders_compute_what_they_did():
    fused = spnn.fuse(settle(models.MinkUNet(6, 7, TINY)))
    skip = fused.stem(cloud())
    below = fused.down[0](skip)
    up = settle(models.MinkUNet(6, 0, models.UNetShape((5,), TINY.down[:1], TINY.up[-1:]))).up[0]
    up = spnn.fuse(up)
    skip, below = (
        tsl.nn.Linear(x.num_channels, c)(x) for x, c in ((skip, 5), (below, below.num_channels))
    )
    expected = up.blocks(tsl.cat([up.transition(below), skip]))
    assert torch.equal(up(below, skip).feats, expected.feats)


@torch.no_grad()
def test_on_tensor_cores_nothing_is_concatenated(tensor_cores, monkeypatch):
    """Decoders read two tensors side by side, projections join the pass of the convolution."""
    fused = spnn.fuse(settle(models.MinkUNet(6, 7, TINY)))
    x = cloud()
    monkeypatch.setattr(dataflow, "conv_dataflow", CONV_DATAFLOW)
    expected = fused(x)
    assert not tensor_cores
    pretend_tensor_cores(monkeypatch)
    monkeypatch.setattr(MINKUNET, "cat", lambda sides: pytest.fail("concatenated"))
    out = fused(x)
    assert torch.equal(out.feats, expected.feats)
    assert [2] in tensor_cores
    assert [1, 2] in tensor_cores
    assert tensor_cores.count([2]) == len(fused.up)
    assert all(len(sides) == 2 or sides == [2] for sides in tensor_cores)


@torch.no_grad()
def test_layers_that_are_watched_are_called(tensor_cores):
    """Hooks, and so the profile of a network, see every convolution."""
    fused = spnn.fuse(settle(models.MinkUNet(6, 7, TINY)))
    x = cloud()
    convs = sum(isinstance(module, spnn.Conv3d) for module in fused.modules())
    layers = models.profile(fused, x).layers
    assert sum(layer.kind == "Conv3d" for layer in layers) == convs
    assert not tensor_cores


@torch.no_grad()
def test_stages_of_all_kinds_read_sides(tensor_cores):
    """Without blocks, with a projection only, with blocks that cannot."""
    shape = models.UNetShape(
        (6,),
        (models.Stage(6, 0), models.Stage(6, 1), models.Stage(8, 1, block="depthwise")),
        (
            models.Stage(9, 0),
            models.Stage(5, 1, block="bottleneck"),
            models.Stage(12, 1, transition=6),
        ),
    )
    fused = spnn.fuse(settle(models.MinkUNet(6, 7, shape)))
    x = cloud()
    out = fused(x)
    assert [2] in tensor_cores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow, "conv_dataflow", CONV_DATAFLOW)
        assert torch.equal(fused(x).feats, out.feats)


@torch.no_grad()
def test_layers_over_sides(tensor_cores):
    """Whatever the layers are, it is what they make of the concatenation."""
    x = cloud()
    sides = x, x.replace_feats(x.feats[:, :4] * 2)
    joined = tsl.cat(sides)
    conv = spnn.Conv3d(10, 6, 3)
    grouped = spnn.Conv3d(10, 4, 3, groups=2)
    for module in (
        conv,
        spnn.ConvReLU(conv),
        spnn.Sequential(),
        spnn.Sequential(spnn.Sequential(conv), spnn.ReLU()),
        grouped,
        spnn.Conv3d(10, 6, 2, 2),
        spnn.Linear(10, 3),
        spnn.Sequential(torch.nn.ReLU(), conv),
    ):
        assert torch.equal(over_sides(module, sides).feats, module(joined).feats)
    assert tensor_cores == [[2], [2], [2], [2]]


class Doubled(spnn.Conv3d):
    """A convolution with a forward of its own."""

    def forward(self, x, target=None, **options):
        return super().forward(x, target, **options) * 2


class Doubling(spnn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


@torch.no_grad()
def test_forwards_of_their_own_are_called(tensor_cores):
    x = cloud()
    sides = x, x.replace_feats(x.feats[:, :4] * 2)
    conv, own = spnn.Conv3d(10, 6, 3), Doubled(10, 6, 3)
    patched = spnn.Conv3d(10, 6, 3)
    patched.forward = own.forward
    for module in (own, spnn.ConvReLU(own), spnn.Sequential(own), Doubling(conv), patched):
        assert torch.equal(over_sides(module, sides).feats, module(tsl.cat(sides)).feats)
    assert not tensor_cores


@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook"])
@torch.no_grad()
def test_hooks_on_the_way_are_called(tensor_cores, kind):
    """And see what they see of the module by itself."""
    x = cloud()
    sides = x, x.replace_feats(x.feats[:, :4] * 2)
    block = models.blocks.FusedBlock([], spnn.Conv3d(10, 6, 3), spnn.Conv3d(10, 6, 1))
    for module in (
        spnn.ConvReLU(spnn.Conv3d(10, 6, 3)),
        spnn.Sequential(spnn.Conv3d(10, 6, 3), spnn.ReLU()),
        block,
    ):
        seen = []
        hook = getattr(module, f"register_{kind}")(lambda _, x, *y, to=seen: to.append(x))
        over_sides(module, sides)
        ((joined,),) = seen
        assert torch.equal(joined.feats, tsl.cat(sides).feats)
        hook.remove()
        if module is not block:  # which goes its own way inside
            assert not tensor_cores
        before = len(tensor_cores)
        over_sides(module, sides)
        assert len(tensor_cores) == before + 1
        tensor_cores.clear()


@torch.no_grad()
def test_a_shortcut_that_is_watched_is_called(tensor_cores):
    shortcut = spnn.Sequential(spnn.Conv3d(6, 5, 1))
    block = models.blocks.FusedBlock([spnn.Conv3d(6, 5, 3)], spnn.Conv3d(5, 5, 3), shortcut)
    seen, x = [], cloud()
    shortcut.register_forward_hook(lambda *_: seen.append("shortcut"))
    block(x)
    assert seen == ["shortcut"]


@torch.no_grad()
def test_sums_of_other_layers_are_left_to_the_layers(tensor_cores):
    x = cloud()
    plain, half = spnn.Conv3d(6, 4, 3), spnn.Conv3d(6, 4, 1).half()
    wide = spnn.Conv3d(7, 4, 1)
    strided = spnn.Conv3d(6, 4, 2, 2)
    for other, error in ((half, TypeError), (wide, ValueError), (strided, ValueError)):
        with pytest.raises(error, match="conv3d: "):
            sum_convs((plain, (x,)), (other, (x,)))
    elsewhere = tsl.SparseTensor(x.feats, x.coords)
    assert not reads_sides((x, elsewhere))
    assert reads_sides((x, x))
    assert not tensor_cores


def test_with_gradients_layers_are_called_one_by_one(tensor_cores):
    fused = spnn.fuse(settle(models.MinkUNet(6, 7, TINY)))
    out = fused(cloud()).feats
    out.sum().backward()
    assert all(p.grad is not None for p in fused.parameters())
    assert not tensor_cores


def test_there_are_as_many_parts_as_in_the_kernel():
    header = Path(__file__).parents[1] / "csrc" / "kernels" / "conv_output.h"
    assert f"kMaxBiases = {gemm.MAX_PARTS};" in header.read_text()


def test_what_the_compiled_module_refuses():
    """Before it looks at devices."""
    one, rows = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int32)
    table = (rows.view(4, 1), torch.zeros(5, dtype=torch.int64), rows)

    def call(feats=(one,), packed=(rows,), numbers=(0,), tables=(table,), biases=(), tile=0):
        arguments = (*map(list, (feats, packed, numbers, tables, biases)), None, rows, False, tile)
        C.implicit_gemm(*arguments, torch.zeros(4, 8), lambda size: one)

    for wrong, words in (
        ({"tile": len(C.gemm_tiles())}, "tile must be 0 to"),
        ({"feats": ()}, "feats must have 1 to 4 parts"),
        ({"feats": (one,) * 5}, "feats must have 1 to 4 parts"),
        ({"biases": (one,) * 5}, "feats must have 1 to 4 parts"),
        ({"packed": ()}, "packed and part_tables must have one entry"),
        ({"numbers": (0, 0)}, "packed and part_tables must have one entry"),
        ({"numbers": (1,)}, "part_tables must be -1 to 0"),
        ({"numbers": (-2,)}, "part_tables must be -1 to 0"),
        ({"numbers": (-1,)}, "tables must each be read by a part"),
        ({}, "out must be on cuda, got cpu"),
    ):
        with pytest.raises(ValueError, match=f"implicit_gemm: {words}"):
            call(**wrong)
