# SPDX-License-Identifier: MIT
"""The tuner of tiles, with a clock and a kernel of our own: what it measures, picks and says."""

from __future__ import annotations

import json
from functools import partial

import clouds
import pytest
import torch
from house_form import provoke

import torchsparse_lite as tsl
from torchsparse_lite import models
from torchsparse_lite import nn as spnn
from torchsparse_lite._native import C
from torchsparse_lite.cli import tune as cli_tune
from torchsparse_lite.cli.contest import Contestant
from torchsparse_lite.cli.tune import report
from torchsparse_lite.data.simulate import scan_boxes
from torchsparse_lite.ops import gemm
from torchsparse_lite.ops.gemm_tiles import read_tiles, tile_by_rule, write_tiles
from torchsparse_lite.ops.map_arrays import MapArrays
from torchsparse_lite.ops.tune_gemm import (
    Convolution,
    TableLayer,
    Tuned,
    convolutions_of,
    on_tensor_cores,
    table_layers,
    tune,
)
from torchsparse_lite.timing import CPU, Times

TILES = [(64, 32), (128, 32), (64, 64), (128, 64)]
PROCESSORS = 16


def voxels(channels=4):
    coords = clouds.surface_coords(20)
    coords = coords[clouds.morton_order(coords)]
    return tsl.SparseTensor(torch.ones(len(coords), channels), coords)


def seen(network, x):
    with torch.no_grad():
        return convolutions_of(lambda: network(x))


def map_arrays():
    """Seven that can be told apart."""
    return MapArrays.of([torch.full((1,), number) for number in range(7)])


def convolution(shape=(27, 32, 64), rows=40000, calls=1):
    return Convolution(shape, rows, rows, map_arrays(), calls)


def tuned(layer, ms_of):
    """Tune with a clock that says ``ms_of(convolution, tile)``; and what was run, in order."""
    ran = []

    def prepare(one, dtype):
        return lambda number: ran.append((one, dtype, TILES[number])) or ms_of(one, TILES[number])

    def measure(calls):
        times = {name: call() for name, call in calls.items()}
        return {name: Times(ms, ms, ms, 1) for name, ms in times.items()}

    found = tune(layer, processors=PROCESSORS, measure=measure, prepare=prepare, tiles=TILES)
    return found, ran


def test_what_a_network_convolves_is_seen():
    """Strided and transposed ones and linear layers too; with the sizes of each kernel map."""
    x = voxels()
    network = spnn.Sequential(
        spnn.Conv3d(4, 8),
        spnn.Conv3d(8, 8, 2, 2),
        spnn.Conv3d(8, 16, 2, 2, transposed=True),
        spnn.Linear(16, 5),
    )
    found = seen(network, x)
    coarse = len(network[1](network[0](x)))
    fine = len(x)
    assert [(c.weight_shape, c.num_in, c.num_out, c.calls) for c in found] == [
        ((27, 4, 8), fine, fine, 1),
        ((8, 8, 8), fine, coarse, 1),
        ((8, 8, 16), coarse, fine, 1),
        ((1, 16, 5), fine, fine, 1),
    ]


def test_equal_layers_are_counted_and_groups_left_out():
    x = voxels(8)
    network = spnn.Sequential(*(spnn.Conv3d(8, 8) for _ in range(3)), spnn.Conv3d(8, 8, groups=8))
    (found,) = seen(network, x)
    assert found.calls == 3
    assert found.weight_shape == (27, 8, 8)


def test_watching_leaves_results_as_they_are():
    x, conv = voxels(), spnn.Conv3d(4, 8)
    results = []
    convolutions_of(lambda: results.append(conv(x).feats))
    assert torch.equal(results[0], conv(x).feats)


def test_a_network_has_its_lines_in_halves_and_in_tf32():
    network = models.minkunet(width=0.25).eval()
    layers = table_layers(seen(network, voxels()))
    keys = [layer.key for layer in layers]
    assert len(set(keys)) == len(keys)
    halves = [key.removeprefix("half ") for key in keys if key.startswith("half ")]
    assert halves == [key.removeprefix("tf32 ") for key in keys if key.startswith("tf32 ")]
    assert len(keys) == 2 * len(halves)
    rows = len(voxels()).bit_length() - 1
    assert f"27x4x8@{rows}" in halves


def test_layers_of_one_name_share_a_line():
    """Sites in the same power of two; in another one they do not."""
    near = [convolution(rows=40000), convolution(rows=50000), convolution(rows=70000)]
    lines = table_layers(near)
    assert [len(line.convolutions) for line in lines] == [2, 1, 2, 1]
    assert [line.key for line in lines[:2]] == ["half 27x32x64@15", "half 27x32x64@16"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_fastest_tile_is_picked(dtype):
    one = convolution()
    ms = {(64, 32): 4.0, (128, 32): 1.5, (64, 64): 3.0, (128, 64): 2.0}
    found, ran = tuned(TableLayer(dtype, (one,)), lambda _, tile: ms[tile])
    rule = tile_by_rule(TILES, 64, 40000, PROCESSORS)
    kind = "half" if dtype == torch.float16 else "tf32"
    assert found == Tuned(f"{kind} 27x32x64@15", (128, 32), 1.5, rule, ms[rule])
    assert ran == [(one, dtype, tile) for tile in TILES]


def test_of_equal_tiles_it_is_that_of_the_rule_or_the_first():
    layer = TableLayer(torch.float16, (convolution(),))
    rule = tile_by_rule(TILES, 64, 40000, PROCESSORS)
    assert rule == (128, 64)
    assert tuned(layer, lambda *_: 1.0)[0].tile == rule
    assert tuned(layer, lambda _, tile: 2.0 if tile == rule else 1.0)[0].tile == TILES[0]


def test_a_line_of_several_layers_takes_the_tile_that_is_best_for_all():
    """Each counts as often as it occurs."""
    often, once = convolution(calls=5), convolution(rows=50000)
    favourite = {often: (64, 32), once: (128, 32)}
    layer = TableLayer(torch.float16, (once, often))

    def ms_of(one, tile):
        return 1.0 if tile == favourite[one] else 2.0

    found, _ = tuned(layer, ms_of)
    assert found.tile == (64, 32)
    assert found.ms == 5 * 1.0 + 2.0
    assert found.by_rule_ms == 5 * 2.0 + 2.0


def test_what_is_picked_goes_into_the_table(tmp_path):
    path = tmp_path / "tiles.json"
    write_tiles(path, "sm_90", {"half 27x32x64@15": (64, 32)})
    layers = table_layers([convolution(), convolution((8, 64, 64), 3000)])
    found = [tuned(layer, lambda _, tile: float(tile != (128, 32)))[0] for layer in layers]
    write_tiles(path, "sm_87", {layer.key: layer.tile for layer in found})
    assert read_tiles(str(path))["sm_87"] == dict.fromkeys(
        (
            "half 27x32x64@15",
            "half 8x64x64@11",
            "tf32 27x32x64@15",
            "tf32 8x64x64@11",
        ),
        (128, 32),
    )
    assert json.loads(path.read_text())["sm_90"] == {"half 27x32x64@15": "64x32"}


def test_what_is_timed_is_the_convolution_over_its_own_map(monkeypatch):
    """The map's view of implicit GEMM, behind its pair lists; the weight packed once."""
    calls, arrays = [], map_arrays()
    monkeypatch.setattr(gemm, "pack_weight", lambda weight: ("packed", weight))
    monkeypatch.setattr(gemm, "implicit_gemm", lambda *given, **named: calls.append((given, named)))
    one = Convolution((8, 16, 24), 50, 30, arrays)
    run = on_tensor_cores(one, torch.float16)
    run(2)
    run(0)
    (first, named), (second, other) = calls
    feats, packed, table, order = first
    assert feats.shape == (50, 16)
    assert feats.dtype == packed[1].dtype == torch.float16
    assert packed[1].shape == (8, 16, 24)
    assert table == arrays.view.table
    assert order is arrays.view.order
    assert named == {"out_channels": 24, "tile": 2}
    assert other == {"out_channels": 24, "tile": 0}
    assert second[1] is packed


def test_what_was_seen_on_the_cpu_is_not_timed():
    (one,) = seen(spnn.Conv3d(4, 8), voxels())
    words = ["tune_gemm: convolution", "on a GPU", "on the CPU"]
    provoke(ValueError, words, lambda: on_tensor_cores(one, torch.float16))


@pytest.fixture
def machine(monkeypatch):
    """An Orin whose clock finds the first tile the fastest; all that it was asked for."""
    asked = []

    def race(calls, *, device, budget_s, is_queued):
        assert is_queued
        asked.append(list(calls))
        return {name: Times(i + 1.0, 0.0, 0.0, 9) for i, name in enumerate(calls)}

    monkeypatch.setattr(cli_tune, "gpu_of", lambda index: ("sm_87", PROCESSORS))
    monkeypatch.setattr(cli_tune, "race", race)
    monkeypatch.setattr(cli_tune, "tune", partial(tune, prepare=lambda *_: lambda number: None))
    return asked


def contestants(*widths):
    rows = torch.from_numpy(scan_boxes(beams=6, columns=100))
    points = tsl.PointTensor(rows, rows[:, :3].contiguous())
    return [
        Contestant(f"minkunet {width}", models.OnPoints(models.minkunet(width=width), 0.4), points)
        for width in widths
    ]


def test_networks_are_tuned_into_a_table(tmp_path, capsys, machine):
    path = tmp_path / "tiles.json"
    write_tiles(path, "sm_90", {"half 27x32x64@15": (64, 32)})
    cli_tune.tune_networks(contestants(0.125, 0.25), CPU, path)
    table = read_tiles(str(path))
    assert table["sm_90"] == {"half 27x32x64@15": (64, 32)}
    assert set(table["sm_87"].values()) == {tuple(C.gemm_tiles()[0])}
    assert all(names == [str(tile) for tile in C.gemm_tiles()] for names in machine)
    kinds = {key.split()[0] for key in table["sm_87"]}
    assert kinds == {"half", "tf32"}
    assert len(machine) >= len(table["sm_87"]) > 40
    printed = capsys.readouterr().out
    assert f"of {len(table['sm_87']) // 2} layers take another tile than the rule's" in printed
    assert f"written to {path} for sm_87; it is used with TSL_GEMM_TILES={path}" in printed


def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path, machine):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("no table")
    provoke(ValueError, [wrong], lambda: cli_tune.tune_networks(contestants(0.125), CPU, wrong))
    provoke(OSError, [tmp_path], lambda: cli_tune.tune_networks(contestants(0.125), CPU, tmp_path))
    assert machine == []
    assert wrong.read_text() == "no table"


def test_the_report_says_what_changed_and_by_how_much():
    layers = [
        Tuned("half 27x32x64@15", (64, 64), 0.9, (128, 64), 1.2),
        Tuned("half 8x64x64@11", (64, 64), 1.0, (64, 64), 1.0),
        Tuned("tf32 27x32x64@15", (128, 64), 0.0, (128, 64), 0.0),
    ]
    changed, halves, tf32 = report(layers)
    words = " ".join(changed.split())
    assert words == "half 27x32x64@15 128x64 -> 64x64 1.200 -> 0.900 ms -25.0%"
    assert halves.startswith("half: 1 of 2 layers take another tile")
    assert "1.900 ms, by the rule 2.200 ms (-13.6%)" in halves
    assert tf32.startswith("tf32: 0 of 1 layers")
