# SPDX-License-Identifier: MIT
"""Sums of convolutions on tensor cores, against float64; packed weights over calls and graphs."""

from __future__ import annotations

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA
from test_cuda_gemm import TYPES, kernel_map
from test_models import TINY, settle

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn
from torchsparse_lite._native import C
from torchsparse_lite.ops import ConvTerm, gemm, sparse_conv, sparse_conv_sum
from torchsparse_lite.ops.map_arrays import MapArrays, Pairs

pytestmark = NEEDS_CUDA
OUT_CHANNELS = 40
# Kernel size and channels of the tensors side by side, of each convolution.
SUMS = {
    "side by side": [(3, (32, 24))],
    "shortcut": [(3, (40,)), (1, (32,))],
    "decoder": [(3, (40,)), (1, (32, 20))],
    "two maps": [(3, (16,)), (2, (24,)), (1, (8,))],
    "own rows": [(1, (72,)), (1, (8,))],
}


def terms_of(plan, dtype):
    terms = []
    for number, (kernel_size, widths) in enumerate(plan):
        found = kernel_map("cuda", kernel_size)
        shapes = [(found.num_in, width) for width in widths]
        shapes += [(found.geometry.kernel_volume, sum(widths), OUT_CHANNELS), (OUT_CHANNELS,)]
        *feats, weight, bias = (
            clouds.random_values(*shape, seed=10 * number + i) for i, shape in enumerate(shapes)
        )
        operands = (*feats, weight / sum(widths) ** 0.5, bias)
        *feats, weight, bias = (t.to(dtype).cuda() for t in operands)
        terms.append(ConvTerm(tuple(feats), weight, found.pairs(with_backward=False), bias))
    return terms


def plainly(terms):
    """In float64 on the CPU, from the numbers as they are stored."""
    total = None
    for term in terms:
        lists = MapArrays.of([array.cpu() for array in term.pairs.forward.lists])
        pairs = Pairs(lists, None, term.pairs.num_out)
        feats = torch.cat(term.feats, dim=1).cpu().double()
        weight, bias = (t.cpu().double() for t in (term.weight, term.bias))
        total = sparse_conv(feats, weight, pairs, bias=bias, residual=total)
    return total


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("plan", SUMS)
@pytest.mark.parametrize("dtype", TYPES)
@torch.no_grad()
def test_sums_are_right(plan, dtype, tf32):
    terms = terms_of(SUMS[plan], dtype)
    out = sparse_conv_sum(terms)
    clouds.assert_close(out, plainly(terms), tolerance=TYPES[dtype])
    assert torch.equal(sparse_conv_sum(terms), out)


@pytest.mark.parametrize("tile", range(len(C.gemm_tiles())))
def test_every_tile_is_right(tile):
    first, second = terms = terms_of(SUMS["decoder"], torch.float16)
    view = first.pairs.forward.view
    packed = [p for term in terms for p in gemm.pack_parts(term.weight, term.widths)]
    feats = (*first.feats, *second.feats)
    parts = map(gemm.Part, feats, packed, (view.table, None, None))
    out = gemm.implicit_gemm_sum(
        list(parts), view.order, out_channels=40, biases=(first.bias, second.bias), tile=tile
    )
    clouds.assert_close(out, plainly(terms), tolerance=TYPES[torch.float16])


def cloud(dtype, device):
    coords = clouds.surface_coords(40)
    feats = clouds.random_values(len(coords), 4, dtype=dtype)
    return tsl.SparseTensor(feats.to(device), coords.to(device))


@torch.no_grad()
def test_fused_networks_compute_the_same(monkeypatch):
    """In one pass a sum: fewer of them than convolutions."""
    network = spnn.fuse(settle(models.MinkUNet(4, 7, TINY)))
    expected = network.double()(cloud(torch.float64, "cpu"))
    sums = []
    one_pass = gemm.implicit_gemm_sum

    def recorded(parts, order, **options):
        sums.append(parts)
        return one_pass(parts, order, **options)

    monkeypatch.setattr(gemm, "implicit_gemm_sum", recorded)
    out = network.half().cuda()(cloud(torch.float16, "cuda"))
    clouds.assert_close(out.feats, expected.feats, tolerance=3e-2)
    assert any(len(parts) == 3 for parts in sums)


@torch.no_grad()
def test_packed_weights_follow_the_weight():
    conv = spnn.Conv3d(4, 8, 3).eval().half().cuda()
    x = cloud(torch.float16, "cuda")
    for _ in range(2):
        first, again = conv(x).feats, conv(x).feats
        assert torch.equal(first, again)
        fresh = spnn.Conv3d(4, 8, 3).half().cuda()
        fresh.load_state_dict(conv.state_dict())
        assert torch.equal(fresh(x).feats, first)
        conv.weight.mul_(-2)


@torch.no_grad()
def test_captured_graphs_see_the_weight_as_it_is():
    """Nothing that was kept before or after belongs to a graph, so nothing of it is freed."""
    block = spnn.fuse(settle(models.blocks.BLOCKS["residual"](4, 8, 8))).half().cuda()
    x = cloud(torch.float16, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        block(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = block(x).feats
    for _ in range(2):
        graph.replay()
        assert torch.equal(out, block(x).feats)
        for conv in (block.last, block.shortcut[0]):
            conv.weight.mul_(-2)


def test_parts_of_one_table_have_its_rows_and_taps():
    (term,) = terms_of(SUMS["side by side"], torch.float16)
    view = term.pairs.forward.view
    a, b = term.feats
    packed = gemm.pack_parts(term.weight, term.widths)
    fewer = gemm.pack_parts(term.weight[1:], term.widths)
    for feats, weights in (((a, b[1:]), packed), ((a, b), (packed[0], fewer[1]))):
        parts = list(map(gemm.Part, feats, weights, (view.table,) * 2))
        with pytest.raises(ValueError, match="as of the other parts of table 0"):
            gemm.implicit_gemm_sum(parts, view.order, out_channels=OUT_CHANNELS)
