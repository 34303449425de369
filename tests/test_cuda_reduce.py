# SPDX-License-Identifier: MIT
"""Operators that are bound by memory, on either device, against float64 and plain torch.

Forward and all gradients. What goes in is rounded to the dtype under test first, so that errors are
those of the operators alone.
"""

from __future__ import annotations

import subprocess
import sys

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.ops.map_arrays import MapArrays, Pairs

# Largest and mean error, relative to the largest and the mean of what is right.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
}
FEW_ROWS = 250  # so many whole numbers are different in bfloat16


def values(*shape, seed=0):
    return clouds.random_values(*shape, seed=seed)


def distinct(rows, channels, seed=0):
    """No two alike in a column, in any dtype: who is largest must not depend on rounding."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randperm(rows, generator=generator) for _ in range(channels)]
    return (torch.stack(columns, 1).double() - rows // 2) / 16


class SegmentReduce:
    """Groups of every size, some empty, one that holds half of the rows."""

    def __init__(self, reduce, rows, channels):
        rows = min(rows, FEW_ROWS) if reduce == "max" else rows
        generator = torch.Generator().manual_seed(rows)
        segment = torch.randint(0, rows // 2 + 3, (rows,), generator=generator)
        segment[: rows // 2] = 1
        self.reduce, self.count, self.segment = reduce, rows // 2 + 5, segment
        self.index = ops.segments(segment, self.count)
        self.leaves = [distinct(rows, channels) if reduce == "max" else values(rows, channels)]

    def run(self, feats, order, ptr):
        return ops.segment_reduce(feats, order, ptr, reduce=self.reduce)[:1]

    def expect(self, feats):
        if self.reduce == "max":
            groups = [feats[self.segment == s] for s in range(self.count)]
            zero = 0 * feats.sum(0)
            return (torch.stack([g.amax(0) if len(g) else zero for g in groups]),)
        out = feats.new_zeros(self.count, feats.shape[1]).index_add(0, self.segment, feats)
        counts = torch.bincount(self.segment, minlength=self.count).clamp_min(1).unsqueeze(1)
        return (out / counts if self.reduce == "mean" else out,)


class Interpolate:
    """Three rows of few, so that some are read by many; some terms missing."""

    def __init__(self, rows, channels):
        known = 17
        generator = torch.Generator().manual_seed(rows)
        index = torch.randint(-1, known, (rows, 3), generator=generator)
        self.index = (index,)
        self.leaves = [values(known, channels), values(rows, 3, seed=1)]

    def run(self, feats, weight, index):
        return (ops.interpolate(feats, index, weight),)

    def expect(self, feats, weight):
        (index,) = self.index
        known = (index >= 0).unsqueeze(2)
        return ((feats[index.clamp_min(0)] * weight.unsqueeze(2) * known).sum(1),)


class OnMap:
    """What pools and channelwise convolutions have in common: windows of 3x3x3 or 2x2x2 voxels."""

    def __init__(self, rows, geometry):
        coords = clouds.surface_coords(80)[:rows]
        x = tsl.SparseTensor(torch.zeros(len(coords), 1), coords, batch_size=1)
        if geometry == "submanifold":
            self.map = x.manager.submanifold(x.level, tsl.ConvGeometry.same(3))
        else:
            halving = tsl.ConvGeometry((2, 2, 2), (2, 2, 2))
            coarse = x.manager.strided(x.level, halving, "cell")
            self.map = x.manager.kernel_map(x.level, coarse, halving)
        self.pairs = self.map.pairs(with_backward=True)
        backward = self.pairs.backward
        self.index = [*self.pairs.forward.lists, *(backward.lists if backward else ())]

    def on_device(self, index):
        p = self.pairs
        backward = MapArrays.of(index[3:]) if p.backward else None
        return Pairs(MapArrays.of(index[:3]), backward, p.num_out, p.is_symmetric, p.full_tap)

    def windows(self, feats):
        """(tap, rows of the output, their inputs)."""
        ptr = self.map.tap_ptr.tolist()
        for tap in range(len(ptr) - 1):
            part = slice(ptr[tap], ptr[tap + 1])
            yield tap, self.map.out_index[part].long(), feats[self.map.in_index[part].long()]


class SumPool(OnMap):
    def __init__(self, rows, channels, geometry):
        super().__init__(rows, geometry)
        self.leaves = [values(self.map.num_in, channels)]

    def run(self, feats, *index):
        return (ops.sparse_sum_pool(feats, self.on_device(index)),)

    def expect(self, feats):
        out = feats.new_zeros(self.map.num_out, feats.shape[1])
        for _, rows, inputs in self.windows(feats):
            out = out.index_add(0, rows, inputs)
        return (out,)


class MaxPool(OnMap):
    def __init__(self, rows, channels, geometry):
        super().__init__(min(rows, FEW_ROWS), geometry)
        self.leaves = [distinct(self.map.num_in, channels)]

    def run(self, feats, *index):
        return ops.sparse_max_pool(feats, self.on_device(index))[:1]

    def expect(self, feats):
        volume = len(self.map.tap_ptr) - 1
        every = feats.new_full((volume, self.map.num_out, feats.shape[1]), -torch.inf)
        for tap, rows, inputs in self.windows(feats):
            every = every.index_put((torch.tensor(tap), rows), inputs)
        out = every.amax(0)
        return (torch.where(out.isinf(), 0, out),)


class Depthwise(OnMap):
    def __init__(self, rows, channels, geometry):
        super().__init__(rows, geometry)
        volume = len(self.map.tap_ptr) - 1
        self.leaves = [
            values(self.map.num_in, channels),
            values(volume, 1, channels, seed=1),
            values(channels, seed=2),
            values(self.map.num_out, channels, seed=3),
        ]

    def run(self, feats, weight, bias, residual, *index):
        pairs = self.on_device(index)
        groups = feats.shape[1]
        return (ops.sparse_conv(feats, weight, pairs, bias=bias, residual=residual, groups=groups),)

    def expect(self, feats, weight, bias, residual):
        out = bias + residual
        for tap, rows, inputs in self.windows(feats):
            out = out.index_add(0, rows, inputs * weight[tap])
        return (out,)


class ColumnSums:
    index = ()

    def __init__(self, rows, channels):
        self.leaves = [values(rows, channels), values(rows, channels, seed=1)]

    def run(self, a, b):
        return ops.column_sums(a, b)

    def expect(self, a, b):
        return a.sum(0), (a * b).sum(0)


class ScaleShift:
    index = ()

    def __init__(self, rows, channels):
        vectors = [values(channels, seed=seed) for seed in (1, 2, 3)]
        self.leaves = [values(rows, channels), *vectors, values(rows, channels, seed=4)]

    def run(self, x, scale, shift, other_scale, other):
        return (ops.scale_shift(x, scale, shift, other=other, other_scale=other_scale),)

    def expect(self, x, scale, shift, other_scale, other):
        return (x * scale + other * other_scale + shift,)


class BatchNorm:
    index = ()

    def __init__(self, rows, channels):
        self.leaves = [
            values(rows, channels) + 3,
            values(channels, seed=1),
            values(channels, seed=2),
        ]

    def run(self, feats, weight, bias):
        return ops.batch_norm(feats, weight, bias, eps=0.1)

    def expect(self, feats, weight, bias):
        count = max(len(feats), 1)
        mean = feats.sum(0) / count
        variance = (feats - mean).square().sum(0) / count
        return (feats - mean) * torch.rsqrt(variance + 0.1) * weight + bias, mean, variance


CASES = {
    "sum of segments": lambda rows, channels: SegmentReduce("sum", rows, channels),
    "mean of segments": lambda rows, channels: SegmentReduce("mean", rows, channels),
    "max of segments": lambda rows, channels: SegmentReduce("max", rows, channels),
    "interpolate": Interpolate,
    "sum pool": lambda rows, channels: SumPool(rows, channels, "submanifold"),
    "sum pool strided": lambda rows, channels: SumPool(rows, channels, "strided"),
    "max pool": lambda rows, channels: MaxPool(rows, channels, "submanifold"),
    "max pool strided": lambda rows, channels: MaxPool(rows, channels, "strided"),
    "depthwise": lambda rows, channels: Depthwise(rows, channels, "submanifold"),
    "depthwise strided": lambda rows, channels: Depthwise(rows, channels, "strided"),
    "column sums": ColumnSums,
    "scale and shift": ScaleShift,
    "batch norm": BatchNorm,
}
SIZES = [(0, 3), (1, 32), (33, 65), (250, 8), (5000, 3), (5000, 32)]


def differentiated(outputs, leaves, dtype):
    """The outputs, and the gradients of their sum weighted with random numbers of the dtype."""
    seeds = [values(*out.shape, seed=7 + n).to(dtype) for n, out in enumerate(outputs)]
    grads = [seed.to(out) for seed, out in zip(seeds, outputs, strict=True)]
    return [t.detach() for t in (*outputs, *torch.autograd.grad(outputs, leaves, grads))]


def placed(leaf, dtype, device, offset):
    """A copy that begins so many numbers behind a large power of two."""
    memory = torch.empty(offset + leaf.numel(), dtype=dtype, device=device)
    return memory[offset:].view(leaf.shape).copy_(leaf).requires_grad_()


def on_device(case, dtype, device, offset=0):
    leaves = [placed(leaf, dtype, device, offset) for leaf in case.leaves]
    index = [array.to(device) for array in case.index]
    return differentiated(case.run(*leaves, *index), leaves, dtype)


def in_float64(case, dtype):
    leaves = [leaf.to(dtype).double().requires_grad_() for leaf in case.leaves]
    return differentiated(case.expect(*leaves), leaves, dtype)


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    error = (actual.double().cpu() - expected).abs()
    assert error.max() <= tolerance * expected.abs().max()
    assert error.mean() <= tolerance * expected.abs().mean()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "channels"), SIZES)
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_right_in_every_run(name, rows, channels, dtype, device):
    case = CASES[name](rows, channels)
    runs = [on_device(case, dtype, device) for _ in range(2)]
    for first, second, expected in zip(*runs, in_float64(case, dtype), strict=True):
        assert_close(first, expected, TOLERANCE[dtype])
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", CASES)
def test_rows_that_begin_anywhere_give_the_same(name, device):
    """A matrix inside another one need not begin at a multiple of 16 bytes."""
    case = CASES[name](40, 32)
    expected = on_device(case, torch.float32, device)
    found = on_device(case, torch.float32, device, offset=1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_points_with_nothing_around_them_read_zeros(device):
    feats = torch.empty(0, 3, device=device, requires_grad=True)
    weight = torch.ones(5, 8, device=device, requires_grad=True)
    out = ops.interpolate(feats, torch.full((5, 8), -1, device=device), weight)
    grad_feats, grad_weight = torch.autograd.grad(out.sum(), [feats, weight])
    assert torch.equal(out.cpu(), torch.zeros(5, 3))
    assert torch.equal(grad_weight.cpu(), torch.zeros(5, 8))
    assert grad_feats.shape == (0, 3)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_kept(name, device):
    """Temporary memory goes back to torch's allocator."""
    case = CASES[name](5000, 32)
    on_device(case, torch.float16, device)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        on_device(case, torch.float16, device)
    assert torch.cuda.memory_allocated() == before


BAD_CALLS = {
    "segment_reduce": "ops.segment_reduce(x, torch.tensor([0, 9]).cuda(), "
    "torch.tensor([0, 2]).cuda(), reduce='sum')",
    "interpolate": "ops.interpolate(x, torch.tensor([[9]]).cuda(), torch.ones(1, 1).cuda())",
}


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_row_that_does_not_exist_ends_the_kernel(name, device):
    """In a process of its own: nothing runs on the device afterwards."""
    code = (
        "import torch; from torchsparse_lite import ops; x = torch.ones(4, 3).cuda(); "
        f"{BAD_CALLS[name]}; torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "must be rows of feats" in done.stderr
