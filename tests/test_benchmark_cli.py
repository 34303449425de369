# SPDX-License-Identifier: MIT
"""``tsl benchmark`` as users run it on a CPU: its table, its file, its messages."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WHY_NO_CUDA
from two_grounds import POINTS, write_two_grounds

from torchsparse_lite import cli, memory_growth
from torchsparse_lite.cli import benchmark, progress
from torchsparse_lite.cli.contest import Contestant, measure
from torchsparse_lite.data.simulate import scan_boxes
from torchsparse_lite.models import OnPoints, minkunet
from torchsparse_lite.models.setting import Setting
from torchsparse_lite.points import PointTensor
from torchsparse_lite.timing import CPU

SMALL = ("--width", "0.125", "--voxel-size", "0.2", "--seconds", "0")


@pytest.fixture
def scan(tmp_path):
    pytest.importorskip("yaml", reason="the extra data is not installed")
    root = write_two_grounds(tmp_path / "scans", {"00": 1})
    return root / "sequences" / "00" / "velodyne" / "000000.bin"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Memory is not measured, which takes a process for each network; and no GPU is looked for."""
    monkeypatch.setattr(memory_growth, "_STATUS", Path("/nonexistent"))


def run(capsys, *arguments, status=0):
    """What the command prints; what it says if it fails."""
    assert cli.main(["benchmark", *map(str, arguments)]) == status, capsys.readouterr().err
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def test_a_table_of_networks(scan, tmp_path, capsys):
    before = torch.get_num_threads()
    path = tmp_path / "new" / "latency.json"
    two = ("--network", "minkunet", "spvcnn", "--width", "0.125", "0.25", "--threads", "1")
    printed = run(capsys, *two, *SMALL[2:], "--scan", scan, "--json", path)
    assert torch.get_num_threads() == before
    header, rows = printed.split("\n\n")
    assert f"{scan}, {POINTS} points, read in" in header
    assert "1 thread, " in header
    assert "float32, fused" in header
    title, *lines = rows.splitlines()[:5]
    for word in ("voxels", "pairs/voxel", "GMACs", "quartiles", "voxelize", "map", "peak, MB"):
        assert word in title
    names = ["minkunet 0.125", "minkunet 0.25", "spvcnn 0.125", "spvcnn 0.25"]
    assert [line[: len(name)] for line, name in zip(lines, names, strict=True)] == names
    result = json.loads(path.read_text())
    assert (result["threads"], result["dtype"], result["fused"]) == (1, "float32", True)
    assert (result["points"], result["preset"], result["voxel_size_m"]) == (POINTS, "42", 0.2)
    assert [row["network"] for row in result["rows"]] == names
    for row in result["rows"]:
        low, high = row["latency"]["quartiles_ms"]
        assert 0 < low <= row["latency"]["median_ms"] <= high
        assert row["stages_ms"].keys() == {"voxelize", "map", "network", "devoxelize"}
        assert row["stages_ms"]["map"] > 0
        assert 1 <= row["pairs_per_voxel"] <= 27
        assert row["peak_mb"] is None
    narrow, wide = result["rows"][:2]
    assert narrow["voxels"] == wide["voxels"] > 0
    assert narrow["parameters"] < wide["parameters"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_types_and_no_fusing(scan, capsys, dtype):
    printed = run(
        capsys, *SMALL, "--network", "spvcnn", "--scan", scan, "--dtype", dtype, "--no-fused"
    )
    assert f"{dtype}, not fused" in printed


def test_a_street_is_made_where_there_is_no_scan(capsys, monkeypatch):
    """As dense as real ones with the extra; by the core alone without, and the table says so."""
    thin = scan_boxes(beams=6, columns=100)
    monkeypatch.setattr(benchmark, "ray_caster_name", lambda: "embreex")
    monkeypatch.setattr(benchmark, "simulate_scan", lambda seed: (thin[:-seed], None))
    printed = run(capsys, *SMALL, "--network", "minkunet", "--seed", "3")
    assert f"simulated street 3, {len(thin) - 3} points\n" in printed

    def absent():
        message = "simulate: a ray caster must be installed, got none. Install one."
        raise RuntimeError(message)

    monkeypatch.setattr(benchmark, "ray_caster_name", absent)
    monkeypatch.setattr(benchmark, "scan_boxes", partial(scan_boxes, beams=6, columns=100))
    printed = run(capsys, *SMALL, "--network", "minkunet")
    assert "street of boxes 0" in printed
    assert "pip install 'torchsparse_lite[sim]'" in printed


def test_streets_of_boxes_depend_on_the_seed_alone():
    first = scan_boxes(1, beams=6, columns=100)
    assert first.dtype == np.float32
    assert first.shape[1] == 4
    assert np.array_equal(first, scan_boxes(1, beams=6, columns=100))
    assert not np.array_equal(first[:50], scan_boxes(2, beams=6, columns=100)[:50])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "spconv"], ["--network must be one of minkunet, spvcnn", "got 'spconv'"]),
        (["--width", "0"], ["--width must be a number from 0.05 on, got 0.0"]),
        (["--voxel-size", "nan"], ["--voxel-size must be a number from 0.001 on, got nan"]),
        (["--threads", "0"], ["--threads must be a number from 1 on, got 0"]),
        (["--seed", "-1"], ["--seed must be a number from 0 on, got -1"]),
        (["--seconds", "-1"], ["--seconds must be a number from 0 on"]),
        (["--checkpoint", "a.ckpt"], ["--checkpoint must be of a single run, got 0 runs"]),
        (["--dtype", "tf32"], ["--dtype must be another with --device cpu", "take float32"]),
        (["--tune", "t.json", "--device", "cpu"], ["--tune must be with --device cuda"]),
        (["--scan", "/nonexistent.bin"], ["/nonexistent.bin"]),
    ],
)
def test_wrong_arguments(capsys, arguments, words):
    message = run(capsys, *arguments, status=1)
    assert message.startswith("tsl benchmark: ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message


@pytest.mark.skipif(WHY_NO_CUDA is None, reason="there is a GPU")
@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--tune", "tiles.json"]])
def test_without_a_gpu_one_message_says_so(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = run(capsys, *arguments, status=1)
    assert f"benchmark: {arguments[0]}" in message
    assert "must be on a machine with a GPU, got none that torch can use" in message
    assert "tsl doctor" in message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(benchmark, "has_cuda", lambda: False)
    message = run(capsys, *arguments, status=1)
    assert "must be in a build with its CUDA part" in message
    assert "TSL_CUDA=ON" in message
    assert not list(tmp_path.iterdir())


def test_a_scan_without_points_is_refused(tmp_path, capsys):
    pytest.importorskip("yaml", reason="the extra data is not installed")
    empty = tmp_path / "empty.bin"
    empty.write_bytes(b"")
    assert "empty.bin" in run(capsys, "--scan", empty, status=1)


def test_a_file_that_cannot_be_written_costs_no_result(scan, tmp_path, capsys):
    assert (
        cli.main(["benchmark", "--network", "minkunet", *SMALL, "--scan", str(scan), "--json", "."])
        == 1
    )
    printed = capsys.readouterr()
    assert "minkunet 0.125" in printed.out
    assert "benchmark: . must be the path of a file, got a folder." in printed.err


def test_memory_of_a_network_is_measured(monkeypatch):
    """In a process of its own, and with its weights."""
    monkeypatch.undo()
    if not Path("/proc/self/status").is_file():
        pytest.skip("the system does not tell how much memory a process has")
    rows = torch.from_numpy(scan_boxes(beams=16, columns=400))
    points = PointTensor(rows, rows[:, :3].contiguous())
    entry = Contestant("a", OnPoints(minkunet(width=0.25), 0.2), points)
    (standing,) = measure(
        [entry], Setting(CPU), budget_s=0, progress=lambda items, text, count: items
    )
    weights_mb = standing.parameters * 4 / 1e6
    assert standing.peak_mb >= weights_mb


def test_a_bar_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    assert list(progress.bar("ab", "letters", 2)) == ["a", "b"]
    assert capsys.readouterr().err == "\rletters: 0 of 2\rletters: 1 of 2\rletters: 2 of 2\n"


def test_runs_need_the_extra_and_say_so(scan, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    message = run(capsys, "--run", "somewhere", "--scan", scan, status=1)
    assert "package lightning must be installed" in message
    assert "pip install 'torchsparse_lite[train]'" in message


def test_trained_networks_by_their_runs(scan, tmp_path, capsys, monkeypatch):
    pytest.importorskip("lightning", reason="the extra train is not installed")
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "model: {network: {class_path: torchsparse_lite.models.spvcnn, init_args: "
        "{in_channels: 3, width: 0.125, voxel_size: 0.2}}}\n"
        "data: {workers: 0, features: [xyz], train: [{sequences: ['00']}], val: [],"
        " batch_size: 1}\n"
        "trainer: {max_epochs: 1, enable_progress_bar: false}\n"
    )
    folder = tmp_path / "run"
    root = scan.parents[3]
    with pytest.warns():  # what Lightning thinks of so small a training
        status = cli.main(
            ["train", "--config", str(config), "--data.root", str(root), "--run", str(folder)]
        )
    assert status == 0
    capsys.readouterr()
    printed = run(capsys, "--run", folder, "--scan", scan, "--seconds", "0")
    assert f"{folder} " in printed.splitlines()[-1]
    assert "minkunet" not in printed
    last = folder / "checkpoints" / "last.ckpt"
    both = ("--network", "spvcnn", *SMALL, "--run", folder, "--checkpoint", last)
    assert len(run(capsys, *both, "--scan", scan).split("\n\n")[1].splitlines()) == 3
    message = run(capsys, "--run", tmp_path / "none", "--scan", scan, status=1)
    assert "the folder of a run" in message
    message = run(capsys, "--run", folder, "--checkpoint", scan, "--scan", scan, status=1)
    assert "a file written by torch.save" in message
