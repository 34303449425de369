# SPDX-License-Identifier: MIT
"""Operators on coordinates and kernel maps on a GPU against the same on the CPU, bit for bit."""

from __future__ import annotations

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA

import torchsparse_lite as tsl
from torchsparse_lite import ops
from torchsparse_lite.coordinates import Level
from torchsparse_lite.ops.scratch import scratch_on
from torchsparse_lite.ops.segment_reduce import _segments_at_once

CUBE = tsl.ConvGeometry.same(3).triples
HALVING = tsl.ConvGeometry((2, 2, 2), (2, 2, 2)).triples
UNEVEN = tsl.ConvGeometry((3, 2, 4), (2, 3, 1), (1, 2, 1), (1, 0, 2)).triples
LAST = torch.tensor([[1023, 131071, 131071, 131071], [0, -131072, -131072, -131072]]).int()

CLOUDS = {
    "empty": torch.empty(0, 4, dtype=torch.int32),
    "one": torch.tensor([[3, -7, 0, 12]], dtype=torch.int32),
    "ends of the range": LAST,
    "signed": clouds.signed_coords(300, low=-9, high=9, batch_size=3),
    "surface": clouds.surface_coords(150, batch_size=2),
}


def sorted_cloud(name):
    return CLOUDS[name][clouds.morton_order(CLOUDS[name])]


def quantize(name, device, dtype):
    scale = torch.tensor([0.1, 0.05, 0.3], dtype=dtype)
    points = ((CLOUDS[name][:, 1:].to(dtype) + 0.37) * scale).to(device)
    batch = CLOUDS[name][:, 0].contiguous().to(device)
    return ops.quantize(points, batch, scale.tolist(), [0.0, 0.0, 0.0])


def unique(name, device):
    twice = torch.cat([CLOUDS[name], CLOUDS[name].flip(0)])
    return ops.unique_coords(twice.to(device))


def coarsen(name, device):
    return ops.coarsen(sorted_cloud(name).to(device))


def order(name, device):
    both = CLOUDS[name].to(device), sorted_cloud(name).to(device)
    return torch.tensor([ops.is_morton_ordered(coords) for coords in both])


def search(name, device, geometry, inverse):
    coords = CLOUDS[name].to(device)
    cells = ops.unique_coords(coords // 2)[0]
    sites, others = (coords, cells) if inverse else (cells, coords)
    return ops.neighbors_search(sites, ops.hash_build(others), geometry, inverse=inverse)


def descend(name, device):
    coarse, _, child_ptr, child_mask = ops.coarsen(sorted_cloud(name).to(device))
    cells = ops.neighbors_search(coarse, ops.hash_build(coarse), CUBE)
    return ops.neighbors_descend(cells, child_ptr, child_mask)


def pairs(name, device, geometry):
    found = search(name, device, geometry, inverse=False)
    volume = torch.tensor(geometry[0]).prod().item()
    in_index, out_index, tap_ptr = ops.pairs_by_tap(found, volume)
    back = ops.transpose_pairs(in_index, out_index, tap_ptr, len(CLOUDS[name]))
    tiles = ops.tile_pairs(out_index, tap_ptr, len(found[1]) - 1)
    return in_index, out_index, tap_ptr, *back, tiles


def sites(name, device, rule, shape):
    coords = CLOUDS[name].to(device)
    if rule == "fine":
        return ops.fine_sites(coords, HALVING, shape)
    return ops.coarse_sites(coords, UNEVEN, rule, shape)


def segments(name, device):
    segment = CLOUDS[name][:, 1].long().clamp(-1, 5).to(device)
    ordered = torch.argsort(segment, stable=True).flip(0)
    return *ops.segments(segment, 8), *ops.segments(segment, 8, order=ordered)


def corners(name, device, dtype):
    coords = CLOUDS[name]
    within = clouds.random_values(len(coords), 3, dtype=dtype).sigmoid()
    size = torch.tensor([0.1, 0.05, 0.3], dtype=dtype)
    return ops.corners(
        ops.hash_build(coords.to(device)),
        ((coords[:, 1:].to(dtype) + within) * size).to(device),
        coords.to(device),
        origin=[0.0] * 3,
        voxel_size=size.tolist(),
        stride=[1] * 3,
        anchor=0.5,
    )


def maps(name, device):
    """What a network asks its manager for: the pyramid, descent and hashing together."""
    manager = tsl.CoordinateManager()
    coords = sorted_cloud(name)
    batch_size = int(coords[-1, 0]) + 1 if len(coords) else 1
    fine = Level(coords.to(device), (1, 1, 1), spatial_shape=None, batch_size=batch_size)
    halved = manager.strided(fine, tsl.ConvGeometry((2, 2, 2), (2, 2, 2)), "cell")
    asked = [
        manager.submanifold(fine, tsl.ConvGeometry.same(3)),
        manager.submanifold(fine, tsl.ConvGeometry.same(5)),
        manager.kernel_map(fine, halved, tsl.ConvGeometry((2, 2, 2), (2, 2, 2))),
        manager.kernel_map(fine, halved, tsl.ConvGeometry((3, 3, 3), (2, 2, 2), padding=(1, 1, 1))),
    ]
    asked += [kernel_map.transposed for kernel_map in asked]
    return halved.coords, *[a for m in asked for a in (m.in_index, m.out_index, m.tap_ptr)]


CALLS = {
    "quantize float32": lambda name, device: quantize(name, device, torch.float32),
    "quantize float64": lambda name, device: quantize(name, device, torch.float64),
    "unique_coords": unique,
    "coarsen": coarsen,
    "is_morton_ordered": order,
    "neighbors_search": lambda name, device: search(name, device, CUBE, False),
    "neighbors_search strided": lambda name, device: search(name, device, UNEVEN, False),
    "neighbors_search inverse": lambda name, device: search(name, device, UNEVEN, True),
    "neighbors_descend": descend,
    "pairs": lambda name, device: pairs(name, device, CUBE),
    "pairs strided": lambda name, device: pairs(name, device, UNEVEN),
    "coarse_sites full": lambda name, device: sites(name, device, "full", (40, 50, 60)),
    "coarse_sites cell": lambda name, device: sites(name, device, "cell", None),
    "fine_sites": lambda name, device: sites(name, device, "fine", (80, 100, 120)),
    "maps": maps,
    "segments": segments,
    "corners float32": lambda name, device: corners(name, device, torch.float32),
    "corners float64": lambda name, device: corners(name, device, torch.float64),
}


def results(call, name, device):
    made = CALLS[call](name, device)
    return made if isinstance(made, tuple) else (made,)


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", CLOUDS)
def test_devices_and_runs_agree(call, name, device):
    expected = results(call, name, "cpu")
    for _ in range(2):
        assert_same(results(call, name, device), expected)


OUTSIDE = torch.tensor([[0, 0, 0, 0], [0, 1 << 20, 0, 0], [-1, 0, 0, 0]], dtype=torch.int32)
REFUSED = {
    "check_range": lambda device: ops.coords.check_range("here", OUTSIDE.to(device)),
    "unique_coords": lambda device: ops.unique_coords(OUTSIDE.to(device)),
    "HashTable": lambda device: tsl.HashTable(OUTSIDE.to(device)),
    "fine_sites": lambda device: ops.fine_sites(LAST.to(device), HALVING, None),
    "NaN": lambda device: ops.quantize(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, torch.nan, 0.0]]).to(device),
        None,
        [1.0] * 3,
        [0.0] * 3,
    ),
    "far": lambda device: ops.quantize(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 1e9, 0.0]]).to(device), None, [1.0] * 3, [0.0] * 3
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_devices_refuse_in_the_same_words(name, device):
    messages = []
    for where in ("cpu", device):
        with pytest.raises(ValueError, match="must") as caught:
            REFUSED[name](where)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_kept(call, device):
    """Temporary memory goes back to torch's allocator."""
    results(call, "surface", device)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        results(call, "surface", device)
    assert torch.cuda.memory_allocated() == before


def test_scratch_lies_beside_its_tensor():
    scratch = scratch_on(torch.empty(0, dtype=torch.float64))
    assert scratch(7).shape == (7,)
    assert scratch(7).dtype == torch.uint8
    assert scratch_on(torch.empty(0, device="meta"))(1).device.type == "meta"


@pytest.mark.parametrize("low", [-1, 0])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_segments_without_branches_are_the_same(low, count):
    """What a GPU runs, on the CPU."""
    segment = torch.randint(low, 7, (count,), generator=torch.Generator().manual_seed(low + count))
    grouped = torch.argsort(segment)
    for order in (torch.arange(count), grouped, grouped.flip(0)):
        assert_same(
            _segments_at_once(segment, 9, order, exact=True), ops.segments(segment, 9, order=order)
        )
