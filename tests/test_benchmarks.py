# SPDX-License-Identifier: MIT
"""The benchmarks that train: what they do again after a break, and what they compare with."""

from __future__ import annotations

import json
import subprocess

import pytest

pytest.importorskip("lightning", reason="the extra train is not installed")
pytest.importorskip("optuna", reason="the extra search is not installed")

from benchmarks import pruning, real_scans, report, run, search, streets, training
from torchsparse_lite import models, nas


@pytest.mark.parametrize("module", [real_scans, search])
def test_they_say_what_they_do(module, capsys):
    with pytest.raises(SystemExit) as exit_:
        module.main(["--help"])
    assert exit_.value.code == 0
    assert "00" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main(["nonsense"])
    assert "tests are" in capsys.readouterr().err


def test_what_ended_is_not_done_again(tmp_path, monkeypatch):
    """And what was stopped is gone on with, under the same clock."""
    made, calls = tmp_path / "run" / "latency.json", []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        made.write_text("{}")

    monkeypatch.setattr(training, "call", call)
    with pytest.raises(KeyboardInterrupt):
        training.timed(made, "search", "profile")
    started = json.loads((made.parent / "latency.json.clock.json").read_text())["start"]
    seconds = training.timed(made, "search", "profile")
    ended = json.loads((made.parent / "latency.json.clock.json").read_text())["end"]
    assert seconds == ended - started >= 0
    assert training.timed(made, "search", "profile") == seconds
    assert calls == [("search", "profile")] * 2
    made.unlink()
    training.timed(made, "search", "profile")
    assert len(calls) == 3
    with pytest.raises(SystemExit, match=r"latency.json was made by another command"):
        training.timed(made, "search", "profile", "--check", 3)
    monkeypatch.setattr(training, "product_commit", lambda: "another")
    with pytest.raises(SystemExit, match=r"latency.json was made by another commit"):
        training.timed(made, "search", "profile")
    assert len(calls) == 3


def test_a_change_of_the_benchmarks_is_not_one_of_the_product(tmp_path, monkeypatch):
    def git(*words):
        names = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    def commits(name):
        (tmp_path / name).mkdir(exist_ok=True)
        with (tmp_path / name / "file.py").open("a") as file:
            file.write("a = 1\n")
        changed = run.commit(), run.product_commit()
        git("add", ".")
        git("commit", "-m", name)
        return [*changed, run.commit(), run.product_commit()]

    monkeypatch.setattr(run, "_ROOT", tmp_path / "benchmarks")
    monkeypatch.setenv("TSL_COMMIT", "named")
    (tmp_path / "benchmarks").mkdir()
    assert run.commit() == run.product_commit() == "named"
    git("init")
    *_, first, product = commits("torchsparse_lite")
    assert first == product
    dirty, same, second, after = commits("benchmarks")
    assert (dirty, same, after) == (first, first, first)  # the first file is not tracked yet
    assert second != first
    dirty, same, third, after = commits("benchmarks")
    assert (dirty, same, after) == (f"{second}-dirty", first, first)
    *changed, fourth, after = commits("torchsparse_lite")
    assert changed == [f"{third}-dirty", f"{first}-dirty"]
    assert fourth == after


def test_what_a_command_depends_on_is_measured_once(tmp_path):
    path = tmp_path / "runs" / "width-0.json"
    assert training.measured_once(path, lambda: 0.25) == 0.25
    assert training.measured_once(path, lambda: 0.5) == 0.25


def test_results_of_other_tests_and_seeds_stay_in_the_file(tmp_path):
    about = {"machine_id": "m", "commit": "c"}
    first = [{"test": "a", "x": 1}, {"test": "b", "seed": 0, "x": 2}]
    for rows in (first, [{"test": "b", "seed": 1, "x": 3}], [{"test": "b", "seed": 0, "x": 4}]):
        run.write_result("search", about, rows, tmp_path)
    (path,) = tmp_path.iterdir()
    assert [row["x"] for row in json.loads(path.read_text())["rows"]] == [1, 3, 4]
    for _ in range(2):  # a suite without tests is written anew
        run.write_result("networks", about, [{"x": 1}], tmp_path)
    assert len(json.loads((tmp_path / "networks-m-c.json").read_text())["rows"]) == 1


def test_the_narrowed_network_is_the_widest_that_is_as_fast(monkeypatch):
    """Also where a wider one takes less time than a narrower one."""

    def latencies(networks, scan, rounds):
        widths = {name: int(name) for name in networks if name != "network"}
        slow = {name: 30.0 if width in (14, 15) else width for name, width in widths.items()}
        return {**slow, "network": 17.5}

    monkeypatch.setattr(streets, "latencies", latencies)
    assert streets.width_as_fast_as(None, None) == 17 / 64


def test_even_shares_of_channels():
    network = models.spvcnn(width=0.25, voxel_size=0.2)
    space = nas.search_space("pruning", **nas.pruning_of(network))
    assert pruning._evenly(space, 1.0) == space.largest
    half = pruning._evenly(space, 0.5)
    for gene in space.genes:
        most = gene.options[-1]
        if gene.is_width:
            assert abs(half[gene.name] - most / 2) <= 4
        else:
            assert half[gene.name] == most


ABOUT = {"suite": "search", "processor": "P", "simd": "s", "torch": "t", "commit": "c"}
SCORES = {"latency_ms": 12.3, "parameters": 1_000_000, "miou": 0.5, "accuracy": 0.9, "minutes": 30}


def test_the_search_has_a_table_for_each_test_that_was_run():
    row = {"test": "streets", "seed": 0, "network": "found", "latency_vs_cr_0.5": 0.6, **SCORES}
    rows = [row, {**row, "miou": 0.7, "seed": 1}]
    first = {**ABOUT, "date": "1", "rows": rows}
    (text,) = report.tables_of([first])
    assert text.count("\n| ") == 4
    assert "| mean | found | 12 | 60% | 1.00 M | 0.600 | 0.900 | 30 |" in text

    rows = [
        {"test": "table", "seed": 0, "networks": 30, "median_error": 0.02, "largest_error": 0.1},
        {"test": "nothing", "seed": 0, "network": "found", **SCORES},
        {"test": "real", "network": "found", "weights_from": "streets", **SCORES},
        {"test": "ranking", "network": 0, **SCORES},
        {"test": "ranking", "network": "all", "kendall_tau": 0.618},
        {"test": "pruning", "network": "whole", "latency_vs_whole": 1.0, **SCORES},
    ]
    others = {**ABOUT, "date": "2", "rows": rows}
    streets, table, nothing, real, ranking, pruned = report.tables_of([others, first])
    assert streets == text  # of the result that has it
    assert "over 30 networks drawn at random, median and largest, of 1 tables: 2.0% and" in table
    assert "from nothing for as many steps: mean IoU 0.500, accuracy 0.900" in nothing
    assert "| found | streets | 12 | 0.500 | 0.900 | 30 |" in real
    assert "1 networks in the supernet and trained alone on the same streets: 0.62" in ranking
    assert "| whole | 12 | 100% | 1.00 M | 0.500 | 0.900 |" in pruned
    (latest,) = report.tables_of([{**first, "date": "3", "rows": first["rows"][:1]}, first])
    assert latest.count("\n| ") == 2  # no mean of one
