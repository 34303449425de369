# SPDX-License-Identifier: MIT
"""Convolution on tensor cores: every tile, and the weight gradient, against float64."""

from __future__ import annotations

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA

import torchsparse_lite as tsl
from torchsparse_lite._native import C
from torchsparse_lite.ops import gemm, plain_conv
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.pairs import tap_begins

pytestmark = NEEDS_CUDA
TYPES = {torch.float16: 5e-3, torch.bfloat16: 2e-2, torch.float32: 2e-3}  # float32 as TF32
# Of float32 sums over 1576 pairs: tensor cores cut off what does not fit, every 4 to 16 products.
SUM_TOLERANCE = 5e-5
CHANNELS = [(4, 32), (32, 32), (96, 96), (40, 130), (64, 256)]


def kernel_map(device, kernel_size=3):
    coords = clouds.surface_coords(40)
    coords = coords[clouds.morton_order(coords)]
    x = tsl.SparseTensor(torch.zeros(len(coords), 1), coords).to(device)
    return x.manager.submanifold(x.level, tsl.ConvGeometry.same(kernel_size))


def operands(found, in_channels, out_channels, dtype, device):
    """Features, weight, bias and residual of about unit size."""
    shapes = [
        (found.num_in, in_channels),
        (found.geometry.kernel_volume, in_channels, out_channels),
        (out_channels,),
        (found.num_out, out_channels),
    ]
    values = [clouds.random_values(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    values[1] = values[1] / in_channels**0.5
    return [value.to(dtype).to(device) for value in values]


def lists_of(found):
    return found.pairs(with_backward=False).forward.lists


def plainly(found, feats, weight, bias, residual):
    """In float64 on the CPU, from the numbers as they are stored."""
    lists = [tensor.cpu() for tensor in lists_of(found)]
    wide = [tensor.detach().cpu().double() for tensor in (feats, weight, bias, residual)]
    return plain_conv.sparse_conv(ConvCall(*wide, lists, [], found.num_out))


def by_tile(found, feats, weight, bias, residual, *, tile=None, order=None):
    view = found.pairs(with_backward=False).forward.view
    return gemm.implicit_gemm(
        feats,
        gemm.pack_weight(weight),
        view.table,
        view.order if order is None else order,
        out_channels=weight.shape[2],
        bias=bias,
        residual=residual,
        tile=tile,
    )


@pytest.mark.parametrize("tile", range(len(C.gemm_tiles())))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("in_channels", "out_channels"), CHANNELS)
def test_every_tile_is_right(tile, dtype, in_channels, out_channels):
    found = kernel_map("cuda")
    given = operands(found, in_channels, out_channels, dtype, "cuda")
    out = by_tile(found, *given, tile=tile)
    clouds.assert_close(out, plainly(found, *given), tolerance=TYPES[dtype])
    assert torch.equal(by_tile(found, *given, tile=tile), out)


@pytest.mark.parametrize("kernel_size", [1, 2, 5])
def test_other_kernels(kernel_size):
    found = kernel_map("cuda", kernel_size)
    given = operands(found, 32, 48, torch.float16, "cuda")
    out = by_tile(found, *given)
    clouds.assert_close(out, plainly(found, *given), tolerance=TYPES[torch.float16])


def test_the_order_of_the_rows_changes_no_bit():
    found = kernel_map("cuda")
    given = operands(found, 32, 48, torch.float16, "cuda")
    expected = by_tile(found, *given)
    order = torch.randperm(found.num_out, generator=torch.Generator().manual_seed(0))
    for rows in (order, order.sort().values):
        assert torch.equal(by_tile(found, *given, order=rows.int().cuda()), expected)


def behind(tensor, count):
    """A copy that begins so many numbers behind a whole word."""
    memory = tensor.new_empty(count + tensor.numel())
    return memory[count:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("dtype", TYPES)
def test_operands_may_begin_anywhere(dtype):
    found = kernel_map("cuda")
    given = operands(found, 32, 48, dtype, "cuda")
    moved = [behind(tensor, 1) for tensor in given]
    assert torch.equal(by_tile(found, *moved), by_tile(found, *given))
    if dtype != torch.float32:
        lists = lists_of(found)
        arrays = *lists[:2], tap_begins(lists[2])
        feats, _, _, grad = given
        expected = gemm.pair_gemm(feats, grad, *arrays)
        assert torch.equal(gemm.pair_gemm(moved[0], moved[3], *arrays), expected)


@pytest.mark.parametrize(("in_channels", "out_channels"), [(0, 8), (8, 0), (0, 0)])
def test_no_channels(in_channels, out_channels):
    found = kernel_map("cuda")
    shape = (found.geometry.kernel_volume, in_channels, out_channels)
    feats, weight = (
        torch.ones(*s, device="cuda").half() for s in ((found.num_in, in_channels), shape)
    )
    bias, residual = torch.ones(out_channels), torch.zeros(found.num_out, out_channels)
    out = by_tile(found, feats, weight, bias.half().cuda(), residual.half().cuda())
    assert torch.equal(out.cpu(), torch.ones(found.num_out, out_channels).half())
    lists = lists_of(found)
    assert gemm.pair_gemm(feats, out, *lists[:2], tap_begins(lists[2])).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("in_channels", "out_channels"), CHANNELS)
def test_the_weight_gradient_is_right(dtype, in_channels, out_channels):
    found = kernel_map("cuda")
    feats, _, _, grad = operands(found, in_channels, out_channels, dtype, "cuda")
    lists = lists_of(found)
    result = gemm.pair_gemm(feats, grad, *lists[:2], tap_begins(lists[2]))
    wide = [tensor.cpu().double() for tensor in (feats, grad)]
    expected = plain_conv.sparse_conv_weight_grad(*wide, [t.cpu() for t in lists], 1, None)
    clouds.assert_close(result, expected, tolerance=SUM_TOLERANCE)
    assert torch.equal(gemm.pair_gemm(feats, grad, *lists[:2], tap_begins(lists[2])), result)
