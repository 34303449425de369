# SPDX-License-Identifier: MIT
"""What operators allocate, and that nothing stays behind.

Python allocates every tensor, so torch's profiler sees all of it; memory that C++ might take on the
side shows in the resident set of the slow tests.
"""

from __future__ import annotations

import gc
import weakref
from itertools import accumulate
from pathlib import Path

import clouds
import harness
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

SMALL_CHANGE = 64 * 1024
SAME = tsl.ConvGeometry.same(kernel_size=3, dilation=1)


def bytes_of(*tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def map_bytes(kernel_map) -> int:
    table = kernel_map.neighbors
    pairs = bytes_of(kernel_map.in_index, kernel_map.out_index, kernel_map.tap_ptr)
    return pairs + bytes_of(table.mask, table.ptr, table.rows)


def peak_bytes(call) -> int:
    """Highest number of bytes that torch held during the call beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        result = call()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    del result
    return max(accumulate(sizes), default=0)


def resident_bytes() -> int:
    """Resident set of this process, from /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def scan(channels, extent=120, *, morton=True, dtype=torch.float32):
    coords = clouds.surface_coords(extent, seed=1)
    if morton:
        coords = coords[clouds.morton_order(coords)]
    return harness.sparse(coords, channels, dtype=dtype)


@pytest.mark.parametrize("channels", [32, 64, 96])
@pytest.mark.parametrize("morton", [True, False])
def test_submanifold_forward_with_a_cached_map(channels, morton):
    """At most 1.15 times the output: no gathered copy, no padded buffer."""
    x = scan(channels, morton=morton)
    layer = tsl.nn.Conv3d(channels, channels, 3).requires_grad_(False)
    y = layer(x)
    assert peak_bytes(lambda: layer(x)) <= 1.15 * bytes_of(y.feats) + SMALL_CHANGE


@pytest.mark.parametrize("morton", [True, False])
def test_submanifold_first_forward(morton):
    """At most 1.15 times the output plus the map and as much again for building it."""
    x = scan(64, morton=morton)
    layer = tsl.nn.Conv3d(64, 64, 3).requires_grad_(False)
    y = layer(x)
    maps = map_bytes(y.manager.submanifold(y.level, SAME))
    fresh = tsl.SparseTensor(x.feats, x.coords)
    assert peak_bytes(lambda: layer(fresh)) <= 1.15 * bytes_of(y.feats) + 2 * maps + SMALL_CHANGE


def test_submanifold_backward():
    """Gradients of feats and weight and nothing of their size besides."""
    x = scan(64)
    weight = harness.random_weight(3, 64, 64, dtype=torch.float32).requires_grad_()
    feats = x.feats.clone().requires_grad_()
    out = tsf.conv3d(x.replace_feats(feats), weight, kernel_size=3).feats
    grad = torch.ones_like(out)
    torch.autograd.grad(out, (feats, weight), grad, retain_graph=True)
    peak = peak_bytes(lambda: torch.autograd.grad(out, (feats, weight), grad, retain_graph=True))
    threads = torch.get_num_threads()
    limit = 1.15 * bytes_of(feats) + (1 + threads) * 1.15 * bytes_of(weight)
    assert peak <= limit + SMALL_CHANGE


def test_strided_and_transposed_with_cached_maps():
    x = scan(64)
    down, up = tsl.nn.Conv3d(64, 64, 2, 2), tsl.nn.Conv3d(64, 64, 2, 2, transposed=True)
    down.requires_grad_(False)
    up.requires_grad_(False)
    y = down(x)
    z = up(y)
    assert peak_bytes(lambda: down(x)) <= 1.15 * bytes_of(y.feats) + SMALL_CHANGE
    assert peak_bytes(lambda: up(y)) <= 1.15 * bytes_of(z.feats) + SMALL_CHANGE


def small_step(layers, index):
    """One forward and backward pass over a new cloud with a new manager."""
    coords = clouds.signed_coords(60, seed=index % 7)
    x = harness.sparse(coords, 4, dtype=torch.float32)
    y = layers(x)
    y.feats.sum().backward()


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def test_a_thousand_passes_leave_nothing_behind():
    """Neither live tensors nor resident memory grow with the number of passes."""
    layers = tsl.nn.Sequential(
        tsl.nn.Conv3d(4, 8, 3),
        tsl.nn.BatchNorm(8),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(8, 8, 2, 2),
        tsl.nn.Conv3d(8, 4, 2, 2, transposed=True),
    )
    for index in range(200):
        small_step(layers, index)
    tensors, resident = live_tensors(), resident_bytes()
    for index in range(1000):
        small_step(layers, index)
    assert live_tensors() == tensors
    assert resident_bytes() - resident < 8 * 2**20


def test_a_manager_does_not_grow_with_repeated_use():
    """The same layers on one tensor, a hundred times: levels and maps are made once."""
    x = scan(8, 40)
    layer, down = tsl.nn.Conv3d(8, 8, 3), tsl.nn.Conv3d(8, 8, 2, 2)
    up = tsl.nn.Conv3d(8, 8, 2, 2, transposed=True)
    with torch.no_grad():
        up(down(layer(x)))
        before = live_tensors()
        for _ in range(100):
            up(down(layer(x)))
        assert live_tensors() == before


@pytest.mark.parametrize("make", ["prune", "union", "target"])
def test_a_manager_lets_go_of_levels_that_nobody_holds(make):
    """Pruned, joined and target levels of past steps do not stay alive with a reused input."""
    x = scan(4, 24)
    other = harness.sparse(clouds.signed_coords(50), 4, dtype=torch.float32)
    layer = tsl.nn.Conv3d(4, 4, 3)

    def step():
        if make == "prune":
            return layer(x[x.feats[:, 0] > 0])
        if make == "union":
            return layer(x + other)
        sites = tsl.SparseTensor(other.feats, other.coords)
        return layer(x, target=sites)

    with torch.no_grad():
        step()
        before = live_tensors()
        for _ in range(20):
            step()
        assert live_tensors() <= before + 20


def test_what_a_manager_keeps():
    """A strided level stays as long as the manager; a pruned one goes with its users."""
    x = scan(4, 24)
    down = tsl.nn.Conv3d(4, 4, 2, 2).requires_grad_(False)
    level = weakref.ref(down(x).level)
    assert level() is not None
    assert down(x).level is level()
    pruned = down(x)[torch.arange(len(level())) % 2 == 0]
    layer = tsl.nn.Conv3d(4, 4, 3).requires_grad_(False)
    first = layer(pruned)
    assert first.manager is pruned.manager is not x.manager
    assert pruned.manager.submanifold(pruned.level, SAME) is first.manager.submanifold(
        first.level, SAME
    )
    up = tsl.nn.Conv3d(4, 4, 2, 2, transposed=True).requires_grad_(False)
    assert up(pruned).level is x.level
    gone = weakref.ref(pruned.level)
    del pruned, first
    assert gone() is None


def test_a_map_onto_a_target_stays_as_long_as_the_target():
    x = scan(4, 24)
    target = harness.sparse(clouds.signed_coords(50), 4, dtype=torch.float32)
    layer = tsl.nn.Conv3d(4, 4, 3).requires_grad_(False)
    y = layer(x, target=target)
    assert y.manager is target.manager
    kernel_map = weakref.ref(x.manager.kernel_map(x.level, target.level, SAME))
    assert kernel_map() is not None
    layer(x, target=target)
    assert x.manager.kernel_map(x.level, target.level, SAME) is kernel_map()
    del target, y
    assert kernel_map() is None


def test_a_recurrent_state_does_not_drag_its_past_along():
    """Pruning and joining again and again: only the finest ancestors are remembered."""
    x = scan(4, 24)
    state = tsf.max_pool3d(x, kernel_size=2)
    with torch.no_grad():
        for step in range(12):
            if step == 2:
                before = live_tensors()
            fresh = tsf.max_pool3d(scan(4, 24), kernel_size=2)
            keep = torch.arange(len(state)) % 7 != step % 7
            state = (state[keep] + fresh)[torch.arange(len(fresh)) % 5 != step % 5]
        assert live_tensors() <= before + 6
    assert tsf.upsample(state, 2).level is x.level


@pytest.mark.slow
@pytest.mark.parametrize("morton", [True, False])
def test_resident_memory_of_a_large_forward(morton):
    """C++ takes nothing of the output's size on the side; measured as the peak resident set."""
    switch = Path("/proc/self/clear_refs")
    x = scan(64, 700, morton=morton)
    layer = tsl.nn.Conv3d(64, 64, 3).requires_grad_(False)
    y = layer(x)
    try:
        switch.write_text("5")
    except OSError:
        pytest.skip("the kernel does not let this process reset its peak resident set")
    before = resident_bytes()
    layer(x)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    assert bytes_of(y.feats) > 50 * 2**20
    assert peak - before <= 1.2 * bytes_of(y.feats) + 16 * 2**20


@pytest.mark.slow
def test_resident_memory_of_repeated_maps():
    """A hundred map builds over a large cloud give their memory back."""
    coords = clouds.surface_coords(300, seed=2)
    feats = torch.ones(len(coords), 4)
    layer = tsl.nn.Conv3d(4, 4, 3).requires_grad_(False)
    for _ in range(5):
        layer(tsl.SparseTensor(feats, coords))
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        layer(tsl.SparseTensor(feats, coords))
    gc.collect()
    assert resident_bytes() - before < 48 * 2**20
