# SPDX-License-Identifier: MIT
"""Networks as lists of operations, and their times by a table of these."""

from __future__ import annotations

import json
from collections import Counter
from importlib import import_module
from math import log2

import clouds
import numpy as np
import pytest
import torch
from house_form import provoke

import torchsparse_lite as tsl
from torchsparse_lite import models, nas
from torchsparse_lite import nn as spnn
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.models.setting import HERE, Setting
from torchsparse_lite.nas import bench, latency
from torchsparse_lite.nas.bench import VOXELIZE, WidthGrid, middle_of
from torchsparse_lite.nas.latency import LatencyTable, _fitted
from torchsparse_lite.nas.operations import geometry_of, kind_of, maps_of, operations_of
from torchsparse_lite.point_grid import PointGrid
from torchsparse_lite.timing import CPU

MINKUNET = import_module("torchsparse_lite.models.minkunet")  # models.minkunet is a function
LIDAR = nas.lidar(width=0.25, quantum=4, deepest=2)
SPVNAS = nas.spvnas(4, width=0.25, voxel_size=0.2)
CASES = [
    *((LIDAR, seed) for seed in range(6)),
    *((SPVNAS, seed) for seed in range(2)),
]


def cloud(count=300):
    xyz = clouds.random_points(count, extent=3.0).float()
    return tsl.PointTensor(clouds.random_values(count, 4, dtype=torch.float32), xyz)


def level_of(stride):
    assert len(set(stride)) == 1
    return int(log2(stride[0]))


def form_of(geometry):
    form = "x".join(map(str, geometry.kernel_size))
    return form if geometry.taps is None else f"{form}/{len(geometry.taps)}"


class Watch:
    """What a network really does, by hooks and in place of methods."""

    def __init__(self, network, monkeypatch):
        self.operations, self.maps, self.corners = Counter(), set(), set()
        for name, module in network.named_modules():
            if isinstance(module, spnn.Conv3d):
                module.register_forward_hook(self.conv)
            elif isinstance(module, spnn.SqueezeExcitation):
                module.register_forward_hook(self.excite)
            elif name.startswith("points.") and isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self.linear("mlp"))
            elif name == "classifier":
                module.register_forward_hook(self.linear("linear"))
        for owner, name, watch in (
            (PointGrid, "gather", self.gather),
            (PointGrid, "scatter", self.scatter),
            (MINKUNET, "cat", self.join),
            (CoordinateManager, "kernel_map", self.map),
        ):
            self.replace(monkeypatch, owner, name, watch)

    @staticmethod
    def replace(monkeypatch, owner, name, watch):
        whole = getattr(owner, name)

        def watched(*args, **options):
            result = whole(*args, **options)
            watch(args, result)
            return result

        monkeypatch.setattr(owner, name, watched)

    def seen(self, kind, level, inputs, outputs):
        self.operations[kind, level, inputs, outputs] += 1

    def conv(self, module, args, y):
        x = args[0]
        before, after = level_of(x.stride), level_of(y.stride)
        taps, per_group, outputs = module.weight.shape
        inputs = x.feats.shape[1]
        assert (outputs, inputs) == (y.feats.shape[1], per_group * module.groups)
        kind = "down" if after > before else "up"
        if after == before:
            kind = "x".join(map(str, module.kernel_size))
            if taps < np.prod(module.kernel_size):
                kind += f"/{taps}"
            kind = f"{'depthwise' if per_group < inputs else 'conv'}:{kind}"
        else:
            assert module.kernel_size == (2, 2, 2)
        self.seen(kind, min(before, after), inputs, outputs)

    def excite(self, module, args, y):
        self.seen("excite", level_of(y.stride), y.feats.shape[1], y.feats.shape[1])

    def linear(self, kind):
        def hook(module, args, y):
            self.seen(kind, 0, args[0].feats.shape[1], y.feats.shape[1])

        return hook

    def gather(self, args, feats):
        level = level_of(args[1].stride)
        self.seen("gather", level, feats.shape[1], feats.shape[1])
        self.corners.add(("gather", level))

    def scatter(self, args, x):
        level = level_of(x.stride)
        self.seen("scatter", level, x.feats.shape[1], x.feats.shape[1])
        self.corners.add(("scatter", level))

    def join(self, args, x):
        self.seen("join", level_of(x.stride), x.feats.shape[1], x.feats.shape[1])

    def map(self, args, result):
        _, fine, coarse, geometry = args
        fine, coarse = level_of(fine.stride), level_of(coarse.stride)
        self.maps.add(("halving" if coarse > fine else f"conv:{form_of(geometry)}", fine))


@pytest.mark.parametrize(("space", "seed"), CASES)
@torch.no_grad()
def test_operations_are_what_the_fused_network_computes(space, seed, monkeypatch):
    """Kinds, levels and widths, one by one; and the kernel maps it makes."""
    arch = space.sample(np.random.default_rng(seed))
    with torch.device("meta"):
        listed = operations_of(space.build(arch))
    network = spnn.fuse(space.build(arch).eval())
    watch = Watch(network, monkeypatch)
    network(cloud())
    # Points become voxels before the first layer: that is part of the table's voxelisation.
    watch.operations["scatter", 0, 4, 4] -= 1
    assert Counter(map(tuple, listed)) == +watch.operations

    halvings = range(len(network.unet.down))
    maps = maps_of(listed, len(halvings) + 1)
    assert len(maps) == len(set(maps))
    parts = {form: {level for other, level in maps if other == form} for form, _ in maps}
    for form in ("cells", "down", "up"):
        assert parts.pop(form) == {*halvings}
    corners = {(form, level) for form in ("gather", "scatter") for level in parts.pop(form, ())}
    assert corners | {("scatter", 0)} == watch.corners | {("scatter", 0)}
    assert parts.pop("rows", set()) == {level for _, level in corners} - {0}
    # A map of some taps is chosen from the whole one, which is no part: it is made by descent.
    whole = {("conv:3x3x3", level) for form, level in watch.maps if form.startswith("conv:3x3x3/")}
    cubes = {level for form, level in watch.maps if form.startswith("conv:3x3x3")}
    assert parts.pop("cube") == {*range(min(cubes), len(halvings) + 1)}
    hashed = {f for f, _ in watch.maps if f not in ("halving", "conv:1x1x1")}
    hashed = {form for form in hashed if not form.startswith("conv:3x3x3")}
    tables = {level for form, level in watch.maps if form in hashed}
    assert parts.pop("table", set()) == tables | {level for _, level in corners if level} | {
        level for form, level in corners if form == "gather"
    }
    maps = {(form, level) for form in parts for level in parts[form]}
    assert maps <= watch.maps - {("halving", level) for level in halvings} <= maps | whole


def test_cases_have_operations_of_all_kinds():
    kinds = {
        part.kind
        for space, seed in CASES
        for part in operations_of(space.build(space.sample(np.random.default_rng(seed))))
    }
    names = {kind.partition(":")[0] for kind in kinds}
    assert len(names) == 10
    assert any("/" in kind for kind in kinds)
    assert {"conv:3x1x1", "conv:5x5x5", "conv:1x1x1", "conv:3x3x3"} < kinds


@pytest.mark.parametrize(
    ("size", "taps"),
    [
        (1, None),
        (3, None),
        (5, None),
        ((3, 1, 1), None),
        ((1, 1, 3), None),
        (3, tsl.STENCILS[7]),
    ],
)
def test_forms_stand_for_kernels(size, taps):
    conv = spnn.Conv3d(4, 4, size, taps=taps)
    name, _, form = kind_of(conv).partition(":")
    assert name == "conv"
    assert geometry_of(form) == conv.window.geometry


def small():
    """One halving; wider below than above."""
    stages = (models.Stage(12, 1),), (models.Stage(6, 1),)
    return models.SPVCNN(4, 5, models.UNetShape((8,), *stages), voxel_size=(0.2, 0.2, 0.3))


PARTS = [  # unit, inputs, outputs
    (("conv:3x3x3", 0), 1.0, 4, 8),  # stem
    (("down", 0), 2.0, 8, 8),
    (("conv:3x3x3", 1), 3.0, 8, 12),
    (("conv:3x3x3", 1), 3.0, 12, 12),
    (("conv:1x1x1", 1), 5.0, 8, 12),  # shortcut
    (("up", 0), 7.0, 12, 6),
    (("join", 0), 11.0, 14, 14),  # 6 from below, 8 of the stem
    (("conv:3x3x3", 0), 1.0, 14, 6),
    (("conv:3x3x3", 0), 1.0, 6, 6),
    (("conv:1x1x1", 0), 13.0, 14, 6),
    (("gather", 0), 17.0, 8, 8),
    (("gather", 1), 19.0, 12, 12),
    (("gather", 0), 17.0, 6, 6),
    (("scatter", 0), 23.0, 8, 8),
    (("scatter", 1), 29.0, 12, 12),
    (("mlp", 0), 31.0, 8, 12),
    (("mlp", 0), 31.0, 12, 6),
    (("linear", 0), 37.0, 6, 5),
]
MAPS = {
    (VOXELIZE, 0): 1e5,
    ("cells", 0): 31e5,
    ("cube", 0): 37e5,
    ("cube", 1): 41e5,
    ("table", 0): 43e5,
    ("table", 1): 47e5,
    ("rows", 1): 53e5,
    ("conv:3x3x3", 0): 2e5,
    ("conv:3x3x3", 1): 3e5,
    ("conv:1x1x1", 0): 5e5,
    ("conv:1x1x1", 1): 7e5,
    ("down", 0): 11e5,
    ("up", 0): 13e5,
    ("gather", 0): 17e5,
    ("gather", 1): 19e5,
    ("scatter", 0): 23e5,
    ("scatter", 1): 29e5,
}
ENDS = [1, 64]


def table_of(size="0.2x0.2x0.3", **options):
    """A time is a unit times both widths: linear in each, so right between those measured."""
    grids = {
        (size, *key): WidthGrid(ENDS, ENDS, [[unit * i * o for o in ENDS] for i in ENDS])
        for key, unit, _, _ in PARTS
    }
    maps = {(size, *key): ms for key, ms in MAPS.items()}
    machine, threads = HERE.describe(), torch.get_num_threads()
    return LatencyTable(machine, threads, 1000, grids, maps, **options)


def test_a_prediction_is_the_sum_of_the_parts():
    parts = sum(unit * inputs * outputs for _, unit, inputs, outputs in PARTS)
    total = parts + sum(MAPS.values())
    assert table_of().predict(small()) == pytest.approx(total, rel=1e-12)
    with torch.device("meta"):
        found = table_of(factor=0.8, offset_ms=7e5).predict(small())
    assert found == pytest.approx(0.8 * total + 7e5, rel=1e-12)


def test_what_is_not_in_the_table_is_refused():
    key = ("0.2x0.2x0.3", "join", 0)
    table = table_of()
    table.operations.pop(key)
    words = ["LatencyTable.predict: network", "join at level 0", "0.2x0.2x0.3 m", "profile"]
    provoke(ValueError, words, lambda: table.predict(small()))
    table = table_of()
    table.maps.pop(("0.2x0.2x0.3", "gather", 1))
    provoke(ValueError, ["map gather at level 1"], lambda: table.predict(small()))
    words = ["map voxelize at level 0", "0.2x0.2x0.3 m"]
    provoke(ValueError, words, lambda: table_of("0.2x0.2x0.2").predict(small()))
    other = models.minkunet(width=0.125)
    provoke(TypeError, ["an SPVCNN", "MinkUNet"], lambda: table_of().predict(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_measured_where_and_as_networks_are_run(device, dtype, monkeypatch):
    """Of every part of a space, on a GPU too."""
    setting = Setting(device, dtype)
    sizes = {"voxel_sizes": [0.2, 0.4], "flatter": [1.0]}
    tiny = {"width": 0.125, "deepest": 1, **sizes, "between": [8]}
    space = nas.lidar(**tiny, kernels=["3x3x3", "3x1x1"], blocks=["residual", "depthwise"])
    scan = cloud()
    timed = []

    def watched(network, scan, setting, *, budget_s):
        timed.append(network)
        return nas.network_latency(network, scan, setting, budget_s=0)

    monkeypatch.setattr(latency, "network_latency", watched)
    table = nas.profile_latency(space, scan, setting, networks=2, budget_s=0, normalize=True)
    assert timed == timed[:2] * 3  # in turns
    assert timed[0] is not timed[1]
    for parts in (table.operations, table.maps):
        assert {size for size, *_ in parts} == {"0.2x0.2x0.2", "0.4x0.4x0.4"}
    assert table.machine == setting.describe()
    assert ("gpu" in table.machine) == (device.type == "cuda")
    for arch in (space.smallest, space.largest):
        network = space.build(arch, normalize=True)
        assert 0 < table.predict(network) < 1e4
        assert 0 < nas.network_latency(network, scan, setting, budget_s=0) < 1e4
        assert network.training  # as it was
        assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_table_is_kept_as_it_is(tmp_path):
    path = tmp_path / "latency.json"
    errors = {"median": 0.04, "largest": 0.2}
    table = table_of(factor=1.25, offset_ms=0.1, errors=errors)
    table.save(path)
    again = LatencyTable.load(path)
    assert again.predict(small()) == table.predict(small())
    for name in ("machine", "threads", "points", "factor", "offset_ms", "errors", "maps"):
        assert getattr(again, name) == getattr(table, name), name
    assert again.operations.keys() == table.operations.keys()


def test_tables_of_other_machines_are_refused(tmp_path):
    path = tmp_path / "latency.json"
    table_of().save(path)
    content = json.loads(path.read_text())

    def refused(change, *words):
        path.write_text(json.dumps({**content, **change}))
        provoke(ValueError, ["latency.json", *words], lambda: LatencyTable.load(path))

    machine = {**content["machine"], "processor": "Abacus"}
    refused({"machine": machine}, "of this machine", "processor Abacus", "anywhere=True")
    assert LatencyTable.load(path, anywhere=True).machine["processor"] == "Abacus"
    refused({"threads": 99}, "of this machine", "threads 99")
    assert LatencyTable.load(path, anywhere=True).threads == 99
    on_gpu = {**content["machine"], "gpu": "Abacus 200"}
    refused({"machine": on_gpu}, "of this machine (gpu none), got gpu Abacus 200")
    half = Setting(dtype=torch.float16)
    table_of().save(path)
    words = ["of this machine (dtype float16), got dtype float32"]
    provoke(ValueError, words, lambda: LatencyTable.load(path, half))
    assert LatencyTable.load(path, half, anywhere=True).machine["dtype"] == "float32"
    refused({"schema": 0}, "of schema", "profile")
    provoke(ValueError, ["of schema"], lambda: LatencyTable.load(path, anywhere=True))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', "latency"])
def test_other_files_are_no_tables(tmp_path, text):
    path = tmp_path / "latency.json"
    words = ["LatencyTable.load: path", "a file", "profile"]
    provoke(FileNotFoundError, words, lambda: LatencyTable.load(path))
    path.write_text(text)
    provoke(ValueError, ["latency.json", "a latency table"], lambda: LatencyTable.load(path))


def test_widths_between_and_beyond():
    grid = WidthGrid([8, 16, 32], [4, 12], [[1.0, 3.0], [5.0, 11.0], [7.0, 21.0]])
    for row, inputs in enumerate(grid.inputs):
        assert [grid.at(inputs, outputs) for outputs in grid.outputs] == grid.ms[row]
    assert grid.at(8, 6) == pytest.approx(1.5)
    assert grid.at(12, 4) == pytest.approx(3.0)
    assert grid.at(12, 8) == pytest.approx((1 + 3 + 5 + 11) / 4)
    assert grid.at(64, 4) == pytest.approx(2 * 7.0)
    assert grid.at(32, 24) == pytest.approx(2 * 21.0)
    assert grid.at(64, 24) == pytest.approx(4 * 21.0)


def test_a_fit_of_sums_to_whole_networks():
    """Factor and offset, exactly, whatever one network says; a factor alone where it must be."""
    sums = np.array([2.0, 5.0, 11.0, 20.0, 5.0])
    stalled = 0.9 * sums + 3
    stalled[2] *= 3
    for measured in (0.9 * sums + 3, stalled):
        assert _fitted(sums, measured) == pytest.approx((0.9, 3.0))
    for measured in (2 * sums - 1, 0.4 * sums + 8):
        factor, offset = _fitted(sums, measured)
        assert offset == 0
        factors = np.linspace(0.1, 6, 5901)
        errors = np.abs(factors[:, None] * sums / measured - 1).sum(1)
        assert factor == pytest.approx(factors[errors.argmin()], abs=1e-3)


def test_a_fit_needs_a_network():
    words = ["profile_latency: networks must be at least 1, got 0"]
    provoke(ValueError, words, lambda: nas.profile_latency(nas.lidar(), cloud(), networks=0))


def test_a_few_calls_are_the_fastest_of_them_and_many_the_median(monkeypatch):
    times = [50.0, 3.0, 1.0, 2.0, 90.0]
    for statistic, expected in (({}, 3.0), ({"statistic": min}, 1.0)):
        left = iter(times)
        monkeypatch.setattr(bench, "elapsed_ms", lambda run, device, left=left: next(left))
        measured = bench.measure_latency(lambda: None, CPU, budget_s=0, **statistic)
        assert measured == expected


def test_a_stall_of_the_machine_is_not_in_the_table():
    quiet = np.arange(6.0).reshape(2, 3)
    stalled = quiet.copy()
    stalled[1, 2] = 60.0
    grids = [WidthGrid([8, 64], [4, 8, 12], ms.tolist()) for ms in (quiet, stalled, quiet + 0.5)]
    middle = middle_of(grids)
    assert (middle.inputs, middle.outputs) == (grids[0].inputs, grids[0].outputs)
    assert middle.ms == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.5]]
