# SPDX-License-Identifier: MIT
"""Sampling and neighbour search on a GPU against the same on the CPU, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA

from torchsparse_lite import ops

SIZES = {
    "no clouds": [],
    "empty clouds": [0, 0, 0],
    "small": [1, 0, 2, 31, 32, 33],
    "several points a thread": [1500, 0, 5000],
    "one large": [20000],
}
DTYPES = [torch.float32, torch.float64]


class Clouds:
    """Clouds of these sizes with their rows interleaved, and queries near them."""

    def __init__(self, sizes, dtype, *, num_queries=300, exact=False):
        count = sum(sizes)
        values = clouds.integer_values if exact else clouds.random_values
        self.xyz = values(count, 3, seed=1, dtype=dtype)
        generator = torch.Generator().manual_seed(2)
        cloud = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes).long())
        cloud = cloud[torch.randperm(count, generator=generator)]
        self.segments = ops.segments(cloud, len(sizes))
        num_queries = num_queries if sizes else 0
        self.queries = values(num_queries, 3, seed=3, dtype=dtype)
        self.query_cloud = torch.randint(0, max(len(sizes), 1), (num_queries,), generator=generator)
        wanted = torch.tensor(sizes).long().clamp_max(200)
        self.sample_ptr = torch.cat([wanted.new_zeros(1), wanted.cumsum(0)])

    def to(self, device):
        moved = object.__new__(Clouds)
        moved.xyz, moved.queries = self.xyz.to(device), self.queries.to(device)
        moved.segments = tuple(array.to(device) for array in self.segments)
        moved.query_cloud = self.query_cloud.to(device)
        moved.sample_ptr = self.sample_ptr.to(device)
        return moved


def furthest(c):
    return (ops.furthest_points(c.xyz, c.segments, c.sample_ptr),)


def balls(c):
    return tuple(
        ops.ball_query(
            c.xyz, c.segments, c.queries, c.query_cloud, radius=radius, max_neighbors=count
        )
        for radius, count in ((0.25, 1), (1.0, 16), (100.0, 40))
    )


def nearest(c):
    found = [ops.nearest_points(c.xyz, c.segments, c.queries, c.query_cloud, k=k) for k in (1, 3)]
    return *found[0], *found[1]


CALLS = {"furthest": furthest, "balls": balls, "nearest": nearest}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [False, True])
def test_devices_and_runs_agree(device, call, name, dtype, exact):
    """Exact positions are whole numbers, so that many distances are equal."""
    here = Clouds(SIZES[name], dtype, exact=exact)
    expected = CALLS[call](here)
    there = here.to(device)
    for _ in range(2):
        for got, want in zip(CALLS[call](there), expected, strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got.cpu(), want)


def test_the_number_of_samples_may_be_known(device):
    """And then the device is not asked for it."""
    c = Clouds(SIZES["small"], torch.float32).to(device)
    count = int(c.sample_ptr[-1])
    known = ops.furthest_points(c.xyz, c.segments, c.sample_ptr, num_samples=count)
    assert torch.equal(known, *furthest(c))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_kept(call, device):
    """Temporary memory goes back to torch's allocator."""
    c = Clouds(SIZES["small"], torch.float32).to(device)
    CALLS[call](c)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        CALLS[call](c)
    assert torch.cuda.memory_allocated() == before


SPOILED = {
    "order must be rows of xyz": "order[5] = 10",
    "ptr must ascend": "ptr[1] = 11",
    "query_cloud must be clouds": "cloud[0] = 2",
    "sample_ptr must ascend": "wanted[1] = 8",
}
PROGRAM = """
import torch
from torchsparse_lite import ops
xyz, order, ptr = torch.rand(10, 3), torch.arange(10), torch.tensor([0, 6, 10])
cloud, wanted = torch.tensor([0, 1]), torch.tensor([0, 3, 6])
{spoil}
xyz, order, ptr, cloud, wanted = (t.cuda() for t in (xyz, order, ptr, cloud, wanted))
ops.furthest_points(xyz, (order, ptr), wanted, num_samples=6)
ops.nearest_points(xyz, (order, ptr), xyz[:2], cloud, k=1)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("words", SPOILED)
def test_what_does_not_fit_ends_the_kernel(words, device):
    """In a process of its own: afterwards no call of CUDA succeeds."""
    program = PROGRAM.format(spoil=SPOILED[words])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stderr
