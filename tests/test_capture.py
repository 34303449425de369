# SPDX-License-Identifier: MIT
"""Networks on fixed memory give what they give as they are; on a GPU played from a graph too."""

from __future__ import annotations

import gc
import weakref
from copy import deepcopy

import clouds
import pytest
import torch
from conftest import NEEDS_CUDA
from house_form import provoke
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn
from torchsparse_lite.deploy import capture
from torchsparse_lite.deploy.capture import _addresses
from torchsparse_lite.deploy.recording import Recording
from torchsparse_lite.models.blocks import DepthwiseBlock
from torchsparse_lite.models.minkunet import minkunet
from torchsparse_lite.models.spvcnn import spvcnn
from torchsparse_lite.sizes import Capacities

CHANNELS = 4


def voxels(extent, *, seed=0, batch_size=2, morton=True):
    coords = clouds.surface_coords(extent, batch_size=batch_size, seed=seed)
    if morton:
        coords = coords[clouds.morton_order(coords)]
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(len(coords), CHANNELS, generator=generator, dtype=torch.float64)
    return tsl.SparseTensor(feats, coords, batch_size=batch_size)


def points(extent, *, seed=0, batch_size=2):
    generator = torch.Generator().manual_seed(seed)
    coords = clouds.surface_coords(extent, batch_size=batch_size, seed=seed)
    xyz = coords[:, 1:] * 0.2 + torch.rand(len(coords), 3, generator=generator) * 0.2
    coords = torch.cat([coords[:, :1].float(), xyz], dim=1)
    feats = torch.randn(len(coords), CHANNELS, generator=generator, dtype=torch.float64)
    return tsl.PointTensor(feats, coords, batch_size)


def trained(network, seed=0):
    """Weights and running statistics that are not those of the first moment."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.double().eval()


def encoder():
    """Every kind of site and map: full, cell, odd, pooled, generated, with a group norm."""
    return spnn.Sequential(
        spnn.Conv3d(CHANNELS, 8, 5),
        spnn.GroupNorm(2, 8),
        spnn.Conv3d(8, 8, 3, stride=2),
        spnn.MaxPool3d(2, rule="cell"),
        spnn.Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
        spnn.Conv3d(8, 6, 2, stride=2, transposed=True, generative=True),
    )


class TwoLevels(nn.Module):
    """Outputs at the input's sites and at coarser ones, in a dict."""

    def __init__(self):
        super().__init__()
        self.fine = spnn.Conv3d(CHANNELS, 8, 3)
        self.coarse = spnn.Conv3d(8, 8, 2, stride=2)

    def forward(self, x):
        fine = self.fine(x)
        coarse = self.coarse(fine)
        return {"fine": fine, "coarse": (coarse, spnn.functional.global_max_pool(coarse))}


torch.manual_seed(0)
ON_VOXELS = {
    "minkunet": trained(minkunet("42", in_channels=CHANNELS, num_classes=5, width=0.25)),
    "fused": spnn.fuse(trained(minkunet("42", in_channels=CHANNELS, num_classes=5, width=0.25))),
    "18": trained(minkunet("18", in_channels=CHANNELS, num_classes=5, width=0.25)),
    "encoder": trained(encoder()),
    "depthwise": trained(DepthwiseBlock(CHANNELS, 8, 16)),
    "two levels": trained(TwoLevels()),
}
ON_POINTS = {
    "spvcnn": trained(spvcnn(in_channels=CHANNELS, num_classes=5, width=0.25, voxel_size=0.2)),
}
INPUTS = {"same": 40, "smaller": 30, "tiny": 3}


def parts(result):
    """Tensors in it, and the coordinates of sparse ones."""
    if isinstance(result, dict):
        return [part for value in result.values() for part in parts(value)]
    if isinstance(result, (tuple, list)):
        return [part for value in result for part in parts(value)]
    if isinstance(result, torch.Tensor):
        return [result]
    return [result.feats, result.coords]


def assert_same(found, wanted):
    """Sums may be taken in another order, so up to the last digits of the dtype."""
    for a, b in zip(parts(found), parts(wanted), strict=True):
        tolerance = 0 if not b.is_floating_point() else 50 * torch.finfo(b.dtype).eps
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def recorded(network, example, *, ratio=1.3):
    with torch.no_grad():
        return Recording(network, example, int(ratio * len(example)))


def played(recording, x):
    with torch.no_grad():
        return recording.play(x)


@torch.no_grad()
def eager(network, x):
    return network(x)


@pytest.mark.parametrize("morton", [True, False])
@pytest.mark.parametrize("name", ON_VOXELS)
def test_a_network_of_voxels_gives_the_same(name, morton):
    network = ON_VOXELS[name]
    recording = recorded(network, voxels(40, morton=morton))
    for seed, extent in enumerate(INPUTS.values(), 1):
        x = voxels(extent, seed=seed, morton=morton)
        assert_same(played(recording, x), eager(network, x))


@pytest.mark.parametrize("name", ON_POINTS)
def test_a_network_of_points_gives_the_same(name):
    network = ON_POINTS[name]
    recording = recorded(network, points(40))
    for seed, extent in enumerate(INPUTS.values(), 1):
        x = points(extent, seed=seed)
        assert_same(played(recording, x), eager(network, x))


class Converts(nn.Module):
    """The dtype changes on the way."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.float().to(torch.float64, non_blocking=True))


def test_points_whose_dtype_changes_on_the_way_keep_their_dead_rows():
    network = Converts(ON_POINTS["spvcnn"]).eval()
    recording = recorded(network, points(20))
    for x in (points(20), points(15, seed=1)):
        assert_same(played(recording, x), eager(network, x))


def test_sites_and_managers_of_the_input_stay():
    x = voxels(30)
    y = played(recorded(ON_VOXELS["minkunet"], x), x)
    assert y.level is x.level
    assert y.manager is x.manager


def test_an_empty_batch_element_is_none_that_is_dead():
    network = trained(TwoLevels())
    recording = recorded(network, voxels(20, batch_size=3))
    x = voxels(15, batch_size=2)
    x = tsl.SparseTensor(x.feats, x.coords, batch_size=3)
    x = tsl.SparseTensor(x.feats, x.coords * torch.tensor([2, 1, 1, 1]).int(), batch_size=3)
    assert_same(played(recording, x), eager(network, x))


def scattered(count):
    """As many sites as wanted, each in a coarse cell of its own."""
    rows = torch.arange(count, dtype=torch.int32)
    coords = torch.stack([rows * 0, rows // 64 * 8, rows % 64 * 8, rows * 0], dim=1)
    coords = coords[clouds.morton_order(coords)]
    return tsl.SparseTensor(torch.ones(count, CHANNELS).double(), coords, batch_size=2)


def test_other_coordinates_on_a_grid_with_room_have_room():
    x = voxels(5)
    level = x.level.like(x.coords, is_morton=True, sizes=Capacities(x.device, 1.5))
    bounded = level.like(x.coords, is_morton=True, spatial_shape=(9, 9, 9))
    unbounded = tsl.SparseTensor.from_level(x.feats, level, x.manager)
    x = tsl.SparseTensor.from_level(x.feats, bounded, x.manager)
    for made in (tsl.cat([x, unbounded]), x + unbounded, x.to("meta")):
        assert made.sizes is level.sizes
        assert made.level not in (bounded, level)


def test_what_does_not_fit_is_noticed_and_the_next_input_is_right():
    network = ON_VOXELS["minkunet"]
    example = voxels(40)
    recording = recorded(network, example)
    assert played(recording, scattered(len(example))) is None  # more coarse cells than planned
    assert played(recording, voxels(60)) is None  # more rows
    assert played(recording, voxels(30, batch_size=1)) is None
    assert_same(played(recording, example), eager(network, example))


def test_there_is_room_for_all_that_a_dilated_kernel_reaches():
    """From an even place it reaches as many sites as it has taps."""
    network = trained(spnn.Sequential(spnn.Conv3d(CHANNELS, 8, 3, stride=2, dilation=2)))
    x = scattered(100)
    assert_same(played(recorded(network, x), x), eager(network, x))


def test_a_point_without_coordinates_goes_the_usual_way():
    """Which then says what is wrong with it."""
    network, x = ON_POINTS["spvcnn"], points(20)
    recording = recorded(network, x)
    x.coords[5, 2] = torch.nan
    assert played(recording, x) is None
    provoke(ValueError, ["SPVCNN: points", "row 5"], lambda: eager(network, x))


def test_on_the_cpu_the_network_is_called():
    network, x = ON_VOXELS["minkunet"], voxels(20)
    assert_same(capture(network)(x), eager(network, x))
    assert not capture(network)(x).requires_grad


def test_bad_arguments_are_named():
    network = ON_VOXELS["18"]
    provoke(TypeError, ["capture: model", "a Module"], lambda: capture(len))
    provoke(ValueError, ["capture: capacity", "-3"], lambda: capture(network, -3))
    provoke(TypeError, ["capture: capacity", "2.5"], lambda: capture(network, 2.5))
    provoke(ValueError, ["capture: model", "eval"], lambda: capture(TwoLevels()))
    provoke(TypeError, ["Captured: x", "Tensor"], lambda: capture(network)(torch.ones(3, 4)))
    captured = capture(trained(TwoLevels())).train()
    provoke(ValueError, ["Captured: model", "eval"], lambda: captured(voxels(5)))


def test_what_is_played_needs_nothing_made_anew():
    """A graph runs no Python: results are read from what the recording has kept."""
    network, x = ON_VOXELS["minkunet"], voxels(30)
    recording = recorded(network, x)
    recording._replay = lambda: None
    assert_same(played(recording, x), eager(network, x))


def test_a_recording_serves_inside_and_outside_of_inference_mode():
    network, x = ON_VOXELS["two levels"], voxels(20)
    with torch.inference_mode():
        recording = Recording(network, voxels(25), 2 * len(x))
    assert_same(recording.play(x), eager(network, x))
    with torch.inference_mode():
        assert_same(recording.play(x), eager(network, x))


def test_the_example_is_not_kept():
    x = voxels(10)
    level = weakref.ref(x.level)
    recording = recorded(ON_VOXELS["two levels"], x)
    del x
    gc.collect()
    assert level() is None
    assert recording.play(voxels(5)) is not None


def test_both_names_of_the_switch_for_tf32_are_read(monkeypatch):
    """Where the new one was set, the old one raises when it is read."""
    switch = torch.backends.cuda.matmul
    if not hasattr(switch, "fp32_precision"):
        pytest.skip("this torch has one name")
    network, x, before = ON_VOXELS["two levels"], voxels(5), switch.fp32_precision
    recording = recorded(network, x)
    try:
        switch.fp32_precision = "tf32"
        assert played(recording, x) is None
    finally:
        switch.fp32_precision = before
    assert played(recording, x) is not None


def test_a_graph_reads_no_weights_that_autocast_keeps():
    """They are freed when autocast is left."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(CHANNELS, 3)
            self.keeps = []

        def forward(self, x):
            self.keeps.append(torch.is_autocast_cache_enabled())
            return x.replace_feats(self.linear(x.feats))

    network, x = Head().eval(), voxels(5).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert played(recorded(network, x), x).dtype == torch.bfloat16
        assert network.keeps == [True, False, False]  # as usual, the plan, played
        assert torch.is_autocast_cache_enabled()


def test_what_is_no_tensor_cannot_be_played():
    class Number(nn.Module):
        def forward(self, x):
            return x, 3

    provoke(TypeError, ["capture: model", "int"], lambda: recorded(Number(), voxels(5)))


class Coarse(nn.Module):
    """Gives the features of its own sites without the sites."""

    def __init__(self):
        super().__init__()
        self.conv = spnn.Conv3d(CHANNELS, 8, 2, stride=2)

    def forward(self, x):
        return self.conv(x).feats


class Elsewhere(nn.Module):
    def forward(self, x):
        return tsl.PointTensor.of_checked(x.feats, x.coords + 1, x.batch_size)


@pytest.mark.parametrize(
    ("network", "x"), [(Coarse().double(), voxels(20)), (Elsewhere(), points(20))]
)
def test_rows_that_nobody_counts_are_refused(network, x):
    provoke(ValueError, ["capture: model", "shape"], lambda: recorded(network.eval(), x))


class Prunes(nn.Module):
    def forward(self, x):
        return x[x.feats[:, 0] > 0]


@pytest.mark.parametrize(
    ("argument", "network", "x"),
    [
        ("BatchNorm: feats", spnn.BatchNorm(CHANNELS, track_running_stats=False), voxels(5)),
        ("PVConv: points", spnn.PVConv(CHANNELS, 4, resolution=3), points(5)),
        ("SparseTensor.__getitem__: mask", Prunes(), voxels(5)),
    ],
)
def test_what_would_take_dead_rows_for_live_ones_is_refused(argument, network, x):
    network = network.double().eval()
    provoke(ValueError, [argument, "captured graph"], lambda: recorded(network, x))


def test_a_tensor_of_as_many_rows_as_there_are_clouds_stays_whole():
    x = points(3, batch_size=3)
    x = tsl.PointTensor(x.feats[:2], x.coords[:2], batch_size=3)

    class Means(nn.Module):
        def forward(self, x):
            return tsl.ops.segment_reduce(x.feats, *x.batch_ptr, reduce="mean")[0]

    with torch.no_grad():
        recording = Recording(Means(), x, 3)
    assert_same(played(recording, x), eager(Means(), x))


def test_where_weights_lie_is_found_for_all_of_them():
    network = encoder().append(spnn.BatchNorm(6))
    found = _addresses(network)
    tensors = [*network.parameters(), *network.buffers()]
    assert sorted(found) == sorted(t.data_ptr() for t in tensors)
    network[0].weight = nn.Parameter(network[0].weight * 2)
    assert _addresses(network) != found


def test_some_taps_only_is_refused():
    network = spnn.Sequential(spnn.Conv3d(CHANNELS, 4, 3, taps=tsl.STENCILS[7])).double().eval()
    provoke(ValueError, ["taps", "7 of 27"], lambda: recorded(network, voxels(5)))


class TestOnAGpu:
    pytestmark = NEEDS_CUDA

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("name", ON_VOXELS)
    def test_a_graph_gives_what_the_network_gives(self, name, dtype):
        network = deepcopy(ON_VOXELS[name]).cuda().to(dtype)
        captured = capture(network, capacity=int(1.3 * len(voxels(40))))
        for seed, extent in enumerate([40, *INPUTS.values()]):
            x = voxels(extent, seed=seed).cuda().to(dtype)
            assert_same(captured(x), eager(network, x))
        assert captured.fallbacks == 0

    def test_points_too(self):
        network = deepcopy(ON_POINTS["spvcnn"]).cuda().half()
        captured = capture(network)
        for seed, extent in enumerate([40, *INPUTS.values()]):
            x = points(extent, seed=seed).cuda().half()
            assert_same(captured(x), eager(network, x))
        assert captured.fallbacks == 0

    def test_what_does_not_fit_is_computed_as_usual(self):
        network = deepcopy(ON_VOXELS["minkunet"]).cuda().half()
        captured = capture(network)
        captured(voxels(40).cuda().half())
        for number, x in enumerate([scattered(len(voxels(40))), voxels(60)], 1):
            x = x.cuda().half()
            assert_same(captured(x), eager(network, x))
            assert captured.fallbacks == number

    def test_weights_are_read_as_they_are(self):
        network = trained(TwoLevels()).cuda().half()
        captured, x = capture(network), voxels(20).cuda().half()
        captured(x)
        with torch.no_grad():
            network.fine.weight.mul_(2)
        assert_same(captured(x), eager(network, x))
        network.coarse.weight = nn.Parameter(network.coarse.weight * 3)
        assert_same(captured(x), eager(network, x))

    def test_playing_waits_once(self):
        network, x = deepcopy(ON_VOXELS["minkunet"]).cuda().half(), voxels(40).cuda().half()
        recording = recorded(network, x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            recording._fill(x)
            recording._replay()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_memory_does_not_grow(self):
        network, x = deepcopy(ON_VOXELS["minkunet"]).cuda().half(), voxels(40).cuda().half()
        captured = capture(network)
        captured(x)
        before = torch.cuda.memory_allocated()
        for _ in range(1000):
            captured(x)
        assert torch.cuda.memory_allocated() == before

    def test_a_network_that_waits_is_named(self):
        class Waits(nn.Module):
            def forward(self, x):
                return x.feats * float(x.feats.sum())

        x = voxels(10).cuda()
        provoke(RuntimeError, ["capture: model", "wait"], lambda: capture(Waits().eval())(x))
