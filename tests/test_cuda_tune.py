# SPDX-License-Identifier: MIT
"""``tsl benchmark`` on a GPU: times and stages of a tiny network, and tiles that are then used."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import NEEDS_CUDA

from torchsparse_lite import cli
from torchsparse_lite._native import C
from torchsparse_lite.cli import benchmark
from torchsparse_lite.data.simulate import scan_boxes
from torchsparse_lite.ops import gemm_tiles
from torchsparse_lite.timing import elapsed_ms

pytestmark = NEEDS_CUDA
TINY = ("benchmark", "--network", "minkunet", "spvcnn", "--width", "0.25", "--voxel-size", "0.4")


@pytest.fixture(autouse=True)
def thin_street(monkeypatch):
    thin = scan_boxes(beams=16, columns=400)
    monkeypatch.setattr(benchmark, "ray_caster_name", lambda: "none")
    monkeypatch.setattr(benchmark, "simulate_scan", lambda seed: (thin, None))
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16", "bfloat16"])
def test_networks_have_times_stages_and_memory(tmp_path, capsys, dtype):
    path = tmp_path / "latency.json"
    how = ("--device", "cuda", "--dtype", dtype, "--seconds", "0.1", "--json", str(path))
    assert cli.main([*TINY, *how]) == 0, capsys.readouterr().err
    result = json.loads(path.read_text())
    assert result["gpu"] == torch.cuda.get_device_name()
    for row in result["rows"]:
        assert row["latency"]["median_ms"] > 0
        assert row["peak_mb"] > 0
        stages = row["stages_ms"]
        assert min(stages["voxelize"], stages["map"], stages["network"]) > 0
    assert torch.backends.cuda.matmul.allow_tf32 == (dtype == "tf32")


def test_tiles_are_measured_and_used(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiles.json"
    elsewhere = {"sm_1": {"half 27x8x8@9": "64x32"}}
    path.write_text(json.dumps(elsewhere))
    assert cli.main([*TINY, "--tune", str(path)]) == 0, capsys.readouterr().err
    assert "layers take another tile than the rule's" in capsys.readouterr().out
    table = json.loads(path.read_text())
    arch, _ = gemm_tiles.gpu_of(torch.cuda.current_device())
    assert table.keys() == {arch, "sm_1"}
    assert table["sm_1"] == elsewhere["sm_1"]
    halves = [key for key in table[arch] if key.startswith("half ")]
    assert len(table[arch]) == 2 * len(halves) > 20

    monkeypatch.setenv("TSL_GEMM_TILES", str(path))
    (key, tile), *_ = ((k, t) for k, t in table[arch].items() if k.startswith("half 27x"))
    shape, _, rows = key.removeprefix("half ").partition("@")
    volume, inputs, outputs = map(int, shape.split("x"))
    feats = torch.zeros(1, inputs, dtype=torch.float16, device="cuda")
    number = gemm_tiles.tile_for(feats, volume, outputs, 2 ** int(rows))
    assert C.gemm_tiles()[number] == tuple(map(int, tile.split("x")))
    assert cli.main([*TINY, "--device", "cuda", "--dtype", "float16", "--seconds", "0.1"]) == 0


def test_a_queued_call_is_timed_without_its_launch():
    x = torch.zeros(8, device="cuda")
    times = [elapsed_ms(x.zero_, x.device, is_queued=True) for _ in range(20)]
    assert 0 < sorted(times)[10] < 0.05
