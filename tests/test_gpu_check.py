# SPDX-License-Identifier: MIT
"""The command for a machine with a GPU, and its suites and tables, as far as a CPU can run them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchsparse_lite as tsl
from benchmarks import gpu_case, gpu_report, run
from benchmarks.attempt import attempt, largest_error
from benchmarks.suites import layers, networks, peers
from torchsparse_lite import memory_growth
from torchsparse_lite.data.simulate import scan_boxes
from torchsparse_lite.ops.registry import _library
from torchsparse_lite.timing import CPU, elapsed_ms, race

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"


def gpu_check(*arguments, **environment):
    """Exit status, output and errors of the command."""
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    known = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    options = {"capture_output": True, "text": True, "check": False, "env": known | environment}
    done = subprocess.run(command, **options)
    return done.returncode, done.stdout, done.stderr


def test_the_script_is_one():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize("arguments", [(), ("a", "layers", "c")])
def test_it_says_how_it_is_used(arguments):
    status, _, errors = gpu_check(*arguments)
    assert status == 2
    for part in ("build+test", "layers", "network", "peers", "OUT", "10 minutes"):
        assert part in errors


def test_an_unknown_part_is_refused(tmp_path):
    status, _, errors = gpu_check(tmp_path / "out", "everything")
    assert status == 2
    assert "PART must be build+test, layers, network or peers, got 'everything'" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch here has CUDA")
def test_without_torch_for_cuda_it_says_so_and_fails(tmp_path):
    status, output, _ = gpu_check(tmp_path / "out", "peers", PYTHON=sys.executable)
    assert status == 1
    assert "Python must have torch for CUDA" in output
    assert "FAILED" in (tmp_path / "out" / "summary.txt").read_text()
    assert "torch for CUDA" in (tmp_path / "out" / "log" / "machine.log").read_text()


STUBS = {
    "nvidia-smi": "printf '9.0\\n8.6\\n9.0\\n'",
    "nvcc": "echo nvcc",
    "cmake": 'echo "$*" >> called; mkdir -p build/gpu; touch build/gpu/_C.so; exit $BUILD',
    "compute-sanitizer": "exit 1",
    "python": 'echo "$*" >> called; [[ $* != "-m pytest"* && $* != *" networks "* ]] || exit 3',
}


@pytest.fixture
def machine(tmp_path):
    """A source tree whose commands only say that they were called; the tests fail there."""
    for folder in ("benchmarks", "torchsparse_lite", "bin"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "benchmarks" / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    for name, text in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!/bin/bash\n{text}\n")
        stub.chmod(0o755)

    def check(*parts, build=0):
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "PYTHON": str(tmp_path / "bin" / "python"), "BUILD": build}
        command = ["bash", str(script), "out", *parts]
        options = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
        environment = {name: str(value) for name, value in environment.items()}
        done = subprocess.run(command, env=environment, **options)
        lines = (tmp_path / "out" / "summary.txt").read_text().splitlines()
        called = (tmp_path / "called").read_text()
        return done.returncode, [line.split(" s  ") for line in lines], called

    return check


def test_what_fails_is_said_and_the_rest_still_runs(machine):
    status, lines, called = machine("build+test")
    assert status == 1
    assert [(name.split()[0], word) for name, word in lines] == [
        ("build", "ok"),
        ("operators", "FAILED: status 3"),
        ("tests", "FAILED: status 3"),
        ("memcheck", "left out"),
        ("racecheck", "left out"),
    ]
    assert "-DTSL_CUDA_ARCHS=86;90" in called
    assert "benchmarks.gpu_case" not in called


def test_all_parts_run_without_one_named(machine):
    status, lines, called = machine()
    assert status == 1
    words = {name.split()[0]: word for name, word in lines}
    assert words["layers"] == words["peers"] == "ok"
    assert words["network"] == "FAILED: status 3"
    for suite in ("layers", "networks", "peers"):
        assert f"-m benchmarks.run {suite} --device cuda --out" in called
    assert "-m benchmarks.gpu_report" in called


def test_a_part_without_failures_ends_well(machine):
    assert machine("peers")[0] == 0


def test_without_a_build_nothing_is_measured(machine):
    status, lines, called = machine("layers", build=2)
    assert status == 1
    assert [word for _, word in lines] == ["FAILED: status 2"]
    assert "benchmarks.run" not in called


@pytest.fixture
def small(monkeypatch):
    """The suites over a thin scan, with few repeats."""

    def few(contestants, *, device=CPU, **_):
        return race(contestants, device=device, budget_s=0, min_repeats=2)

    scan = partial(tuple, ("a thin street", scan_boxes(beams=12, columns=200)))
    for suite in (layers, networks, peers):
        monkeypatch.setattr(suite, "load_scan", scan)
        monkeypatch.setattr(suite, "race", few)
    for suite in (layers, peers):
        monkeypatch.setattr(suite, "VOXEL_SIZES_M", (0.4,))
        monkeypatch.setattr(suite, "CHANNELS", (4,))
    monkeypatch.setattr(layers, "MM_SIZE", {"cpu": 16})
    monkeypatch.setattr(layers, "RESAMPLED_CHANNELS", 4)
    monkeypatch.setattr(layers, "ITERATIONS", 20)
    monkeypatch.setattr(networks, "WIDTHS", (0.25,))
    monkeypatch.setattr(networks, "VOXEL_SIZE_M", 0.4)
    monkeypatch.setattr(memory_growth, "_STATUS", Path("/nonexistent"))


@pytest.mark.usefixtures("small")
def test_layers_on_the_cpu():
    maps, *rows, memory = layers.run(1, CPU)
    assert not any("failed" in row for row in (maps, *rows, memory))
    assert maps["pyramid"]["repeats"] == maps["hash"]["repeats"] == 2
    assert {(row["case"], row["dtype"]) for row in rows} == {
        (kind, dtype) for kind in layers.KINDS for dtype in ("float32", "float16")
    }
    for row in rows:
        assert row["bitwise"] is True
        assert row["error"] <= 4e-3
        assert row["pairs_per_voxel"] >= 1
        for name in ("mm", "operator", "plain", "train", "plain_train"):
            assert row[name]["median_ms"] > 0
    assert memory["iterations"] == 20


def test_gradients_of_a_whole_scan_fit_into_float16():
    """Features of layers are metres times weights; 90,000 of them are added up."""
    sheet = layers._small_cloud(0)
    coords = torch.cat([sheet + torch.tensor([0, 40 * n, 0, 0]).int() for n in range(57)])
    voxels = tsl.SparseTensor(torch.full((len(coords), 4), 50.0), coords)
    layer = layers.make_layer("submanifold 3x3x3", 4, torch.float16, voxels, CPU)
    assert all(values.isfinite().all() for values in layer.train())


@pytest.mark.usefixtures("small")
def test_the_checks_of_a_layer_can_fail(monkeypatch):
    """A wrong operator and one that does not repeat are both found."""
    train, calls = layers.Layer.train, []

    def drifts(layer):
        calls.append(layer)
        out, *grads = train(layer)
        return out + 1e-3 * len(calls), *grads

    monkeypatch.setattr(layers, "TOLERANCE", {torch.float32: 10.0})
    monkeypatch.setattr(layers.Layer, "train", drifts)
    rows = [row for row in layers.run(1, CPU) if "operator" in row]
    assert {row["failed"] for row in rows} == {"two passes differ"}
    monkeypatch.setattr(layers, "TOLERANCE", {torch.float32: 1e-9})
    rows = [row for row in layers.run(1, CPU) if "operator" in row]
    assert all("away from the plain path" in row["failed"] for row in rows)


@pytest.mark.usefixtures("small")
def test_networks_on_the_cpu():
    (row,) = networks.run(1, CPU)
    assert row["bitwise"] is True
    assert row["inference_peak_mb"] is None
    assert row["inference"]["repeats"] == row["train"]["repeats"] == 2
    assert "inference_half" not in row


@pytest.mark.usefixtures("small")
def test_peers_on_the_cpu(monkeypatch):
    """The loop in torch needs nothing; a library that is not there says so."""
    monkeypatch.setitem(peers._MODULES, "spconv", "no_such_module")
    monkeypatch.setattr(peers, "PEERS", {name: peers.PEERS[name] for name in ("torch", "spconv")})
    loop, absent = peers.run(1, CPU)
    assert "failed" not in loop
    assert loop["error"] < 1e-5
    assert loop["peer_warm"]["median_ms"] > 0
    assert absent["peer"] == "spconv"
    assert absent["absent"].startswith("ModuleNotFoundError: No module named 'no_such_module'")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suite", ["layers", "peers"])
def test_a_run_writes_its_result_and_its_table(suite, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", {"torch": peers._torch})
    before = torch.get_num_threads()
    try:
        status = run.main([suite, "--threads", "1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(before)
    assert status == 0
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["suite"] == suite
    assert "gpu" not in result
    assert gpu_report.main([str(tmp_path)]) == 0
    text = (tmp_path / "tables.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n| ") == len(result["rows"]) + 1
    assert "a thin street" in text


def test_a_row_that_failed_is_kept_and_tells(tmp_path, monkeypatch):
    def broken():
        message = "no kernel\nand more"
        raise RuntimeError(message)

    rows = [attempt({"case": "a"}, broken), attempt({"case": "b"}, lambda: {"bytes": 0})]
    assert rows[0] == {"case": "a", "failed": "RuntimeError: no kernel"}
    assert rows[1] == {"case": "b", "bytes": 0}
    monkeypatch.setattr(layers, "run", lambda threads, device: iter(rows))
    before = torch.get_num_threads()
    try:
        assert run.main(["layers", "--threads", "1", "--out", str(tmp_path)]) == 1
    finally:
        torch.set_num_threads(before)
    text = gpu_report.table(json.loads(next(tmp_path.glob("*.json")).read_text()))
    assert "| a |  | RuntimeError: no kernel |" in text
    assert "| b | 0 |  |" in text


def test_a_suite_of_the_cpu_stays_there(capsys):
    with pytest.raises(SystemExit):
        run.main(["cpu_conv", "--device", "cuda"])
    assert "cpu_conv runs on cpu alone" in capsys.readouterr().err


def test_tables_name_the_gpu_and_show_quartiles():
    times = {"median_ms": 1.23456, "quartiles_ms": [1.0, 2.0], "repeats": 9}
    row = {"scan": "s", "network": "N", "inference": times, "bitwise": True, "inference_vs_mm": 0.5}
    about = {"processor": "P", "torch": "t", "date": "d", "commit": "c"}
    result = {"suite": "networks", "gpu": "H", "cuda": "13.0", **about, "rows": [row]}
    text = gpu_report.table(result)
    assert text.splitlines()[0].startswith("networks, s;")
    assert "H, CUDA 13.0, P, torch t" in text
    assert "| N | 1.235 (1.000-2.000) | 0.5 | yes |" in text


def test_a_folder_without_results_has_no_tables(tmp_path, capsys):
    assert gpu_report.main([str(tmp_path)]) == 1
    assert "no results" in capsys.readouterr().out
    assert not (tmp_path / "tables.md").exists()


class Recorder(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_the_small_case_runs_every_operator(capsys):
    with Recorder() as called:
        gpu_case.main(["--device", "cpu"])
    assert capsys.readouterr().out == "done on cpu\n"
    assert _library._op_defs <= called.names


def test_errors_are_relative_to_the_largest_entry():
    assert largest_error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0])) == 0.125
    assert largest_error(torch.empty(0), torch.empty(0)) == 0.0


def test_a_call_takes_time():
    assert elapsed_ms(lambda: sum(range(1000))) > 0


def test_results_take_the_commit_from_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("TSL_COMMIT", "abc1234")
    monkeypatch.setattr(run, "_ROOT", tmp_path)
    assert run.commit() == "abc1234"
