# SPDX-License-Identifier: MIT
"""The hash table on a GPU against the one on the CPU: what the CUDA part of this version holds."""

from __future__ import annotations

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA

import torchsparse_lite as tsl
from torchsparse_lite import ops

pytestmark = NEEDS_CUDA


@pytest.mark.parametrize("count", [0, 1, 1000, None])
def test_lookups_agree_with_the_cpu(count):
    coords = clouds.surface_coords(300)[:count]
    queries = torch.cat([coords, coords + 1])
    here = tsl.HashTable(coords)
    there = tsl.HashTable(coords.cuda())
    assert len(here) == len(there)
    assert torch.equal(here.lookup(queries), there.lookup(queries.cuda()).cpu())


def test_of_equal_coordinates_the_first_row_stays():
    coords = clouds.surface_coords(100)[:5000]
    twice = torch.cat([coords, coords]).cuda()
    assert torch.equal(tsl.HashTable(twice).lookup(twice[5000:]).cpu(), torch.arange(5000))


def test_two_builds_have_the_same_filter():
    """Its words come from uninitialised memory and must be cleared first."""
    coords = clouds.surface_coords(80)[:3000]
    filters = []
    for fill in (0, -1):
        scratch = torch.full((1 << 20,), fill, dtype=torch.int32, device="cuda")
        del scratch
        filters.append(ops.hash_build(coords.cuda())[2].cpu())
    assert torch.equal(*filters)
    assert torch.equal(filters[0], ops.hash_build(coords)[2])


def test_other_devices_are_refused():
    table = tsl.HashTable(clouds.signed_coords(10).cuda())
    with pytest.raises(ValueError, match="device"):
        table.lookup(clouds.signed_coords(10))
