# SPDX-License-Identifier: MIT
"""``tsl search`` from a supernet to a trained network, and what it says when it cannot."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from house_form import FORM
from two_grounds import write_two_grounds

pytest.importorskip("lightning", reason="the extra train is not installed")
pytest.importorskip("optuna", reason="the extra search is not installed")
pytest.importorskip("matplotlib", reason="the extra viz is not installed")

from torchsparse_lite import cli, nas
from torchsparse_lite.cli.search_run import first_within
from torchsparse_lite.nas.latency import LatencyTable
from torchsparse_lite.nas.search import Found

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

SUPERNET = """
model:
  network:
    class_path: torchsparse_lite.nas.Supernet
    init_args: {space: {kind: spvnas, quantum: 4, width: 0.25, voxel_size: 0.2}}
  learning_rate: 0.02
  phases: depth
  sandwich: true
data:
  workers: 0
trainer:
  max_epochs: 6
  enable_progress_bar: false
"""

PLAIN = """
model:
  network:
    class_path: torchsparse_lite.models.spvcnn
    init_args: {width: 0.25, voxel_size: 0.2}
  learning_rate: 0.02
data:
  workers: 0
trainer:
  max_epochs: 6
  enable_progress_bar: false
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A supernet's run with its latency table."""
    folder = tmp_path_factory.mktemp("search")
    scans = write_two_grounds(folder / "scans", {"00": 6, "08": 2})
    (folder / "supernet.yaml").write_text(SUPERNET)
    run = folder / "run"
    parts = ("--data.train", '[{sequences: ["00"]}]', "--data.val", '[{sequences: ["08"]}]')
    where = ("--config", str(folder / "supernet.yaml"), "--data.root", str(scans), *parts)
    assert cli.main(["search", "train", *where, "--run", str(run)]) == 0
    assert cli.main(["search", "profile", "--run", str(run), "--check", "2"]) == 0
    return run


def limit_of(run, share):
    """Milliseconds between the smallest and the largest network."""
    table = LatencyTable.load(run / "latency.json")
    space = nas.spvnas(4, width=0.25, voxel_size=0.2)
    low, high = (table.predict(space.build(arch)) for arch in (space.smallest, space.largest))
    assert low < high
    return low + share * (high - low)


def refused(run, capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["search", "run", "--run", str(run), *arguments]) == 1
    text = capsys.readouterr().err
    message = text[text.index("tsl search: ") :].removeprefix("tsl search: ")
    assert FORM.match(message), message
    assert "Traceback" not in text
    return message


def test_from_a_supernet_to_a_network(trained, tmp_path, capsys):
    limit = limit_of(trained, 0.5)
    arguments = ["--limit_ms", str(limit), "--trials", "12", "--algorithm", "spos"]
    assert cli.main(["search", "run", "--run", str(trained), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "spos" in printed
    assert "random" in printed
    (result,) = (trained / "search").glob("spos-*.json")
    assert result.with_suffix(".png").stat().st_size > 10_000
    written = json.loads(result.read_text())
    assert written["limit_ms"] == limit
    assert written["table"]["errors"].keys() == {"median", "largest"}
    content = written["searches"]
    assert content.keys() == {"spos", "random"}
    for found in content.values():
        assert len(found["trials"]) == 12
        assert all(trial["latency_ms"] <= limit for trial in found["trials"])
        assert found["best"]["arch"] in [trial["arch"] for trial in found["trials"]]
        assert found["best"]["measured_ms"] > 0
        assert found["best"]["gmacs"] > 0
        assert found["best"]["parameters"] > 1e4
    assert written["machine"]["dtype"] == "float32"

    assert (trained / "search" / "best-random.json").is_file()
    out = tmp_path / "found"
    derive = ["search", "derive", "--run", str(trained), "--out", str(out), "--epochs", "3"]
    derive += ["--model.learning_rate", "0.01"]
    assert cli.main(derive) == 0
    assert (out / "scores.json").is_file()  # it was validated
    best = nas.Arch.from_json((trained / "search" / "best.json").read_text())
    state = torch.load(out / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    network = nas.spvnas(4, width=0.25, voxel_size=0.2).build(best)
    assert {f"network.{name}" for name in network.state_dict()} <= state.keys()
    assert cli.main(["validate", "--run", str(out)]) == 0
    assert json.loads((out / "scores.json").read_text())["accuracy"] > 0.8
    assert json.loads((out / "measured.json").read_text())["latency_ms"] > 0

    begun = (out / "subnet.pt").read_bytes()
    other = next(
        text
        for trial in content["spos"]["trials"]
        if (text := json.dumps(trial["arch"])) != best.to_json()
    )
    (tmp_path / "other.json").write_text(other)
    capsys.readouterr()
    assert cli.main([*derive, "--arch", str(tmp_path / "other.json")]) == 1
    assert "train: model.network must be as in" in capsys.readouterr().err
    assert (out / "subnet.pt").read_bytes() == begun


def test_candidates_are_timed_until_one_keeps_to_the_limit():
    ranked = [Found(nas.Arch("s", (("gene", n),)), {"miou": 1.0 - n / 100}) for n in range(12)]
    for times, place in (
        ([80.0] * 12, 0),
        ([81.0] * 10 + [80.0, 70.0], 10),
        ([90.0] * 11 + [80.1], 11),
        ([90.0] * 3 + [80.1] + [90.0] * 8, 3),
    ):
        asked = []

        def measure(arch, times=times, asked=asked):
            asked.append(arch["gene"])
            return times[arch["gene"]]

        assert first_within(ranked, measure, 80.0) == (ranked[place], times[place])
        assert asked == list(range(place + 1 if times[place] <= 80 else 12))


def test_multiplications_can_be_limited(trained, capsys):
    space = nas.spvnas(4, width=0.25, voxel_size=0.2)
    table = LatencyTable.load(trained / "latency.json")
    arguments = ["--limit_gmacs", "0.05", "--trials", "4"]
    assert cli.main(["search", "run", "--run", str(trained), *arguments]) == 0
    assert "GMACs" in capsys.readouterr().out
    written = json.loads((trained / "search" / "spos-0-0.05gmacs.json").read_text())
    assert written["limit_ms"] is None
    trials = written["searches"]["spos"]["trials"]
    assert len(trials) == 4
    for trial in trials:
        assert 0 < trial["gmacs"] <= 0.05
        network = space.build(nas.Arch.from_json(json.dumps(trial["arch"])))
        assert trial["latency_ms"] == table.predict(network)
        assert trial["parameters"] == sum(p.numel() for p in network.parameters())


def test_candidates_are_timed_and_weighed(trained, capsys):
    """Latency, memory and accuracy together, each latency measured."""
    arguments = ["--limit_ms", "1000", "--trials", "5", "--algorithm", "nsga2", "--measured"]
    assert cli.main(["search", "run", "--run", str(trained), *arguments, "--scans", "1"]) == 0
    content = json.loads((trained / "search" / "nsga2-0-1000ms.json").read_text())["searches"][
        "nsga2"
    ]
    table = LatencyTable.load(trained / "latency.json")
    space = nas.spvnas(4, width=0.25, voxel_size=0.2)
    for trial in content["trials"]:
        assert trial["memory_mb"] > 0
        arch = nas.Arch.from_json(json.dumps(trial["arch"]))
        assert trial["latency_ms"] != table.predict(space.build(arch))
    front = content["pareto"]
    assert len(front) >= 1
    capsys.readouterr()


def test_a_limit_that_nothing_keeps_to_when_it_is_timed(trained, capsys, monkeypatch):
    """The result is kept: the fastest, and a line that says so."""
    times = iter(range(10_000, 99_999))
    monkeypatch.setattr("torchsparse_lite.nas.candidates.network_latency", lambda *_: next(times))
    limit = limit_of(trained, 0.7)
    arguments = ["--limit_ms", str(limit), "--trials", "3", "--measured", "--scans", "1"]
    capsys.readouterr()
    assert cli.main(["search", "run", "--run", str(trained), *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"none keeps to {limit:g} ms when it is timed; this is the fastest") == 2
    written = json.loads((trained / "search" / f"spos-0-{limit:g}ms.json").read_text())
    for found in written["searches"].values():
        assert len(found["trials"]) == 3
        assert all(trial["latency_ms"] > limit for trial in found["trials"])
        assert found["best"]["measured_ms"] > limit


def test_a_trained_network_is_pruned(trained, tmp_path, capsys):
    """To networks of fewer channels and taps, some of which are still right."""
    plain, run = tmp_path / "plain", tmp_path / "pruned"
    config = tmp_path / "plain.yaml"
    config.write_text(PLAIN)
    parts = ("--data.train", '[{sequences: ["00"]}]', "--data.val", '[{sequences: ["08"]}]')
    where = ("--config", str(config), "--data.root", str(trained.parent / "scans"), *parts)
    assert cli.main(["train", *where, "--run", str(plain)]) == 0
    before = (plain / "checkpoints" / "last.ckpt").read_bytes()
    assert cli.main(["search", "prune", "--run", str(plain), "--out", str(plain)]) == 1
    assert "--out must be the folder of a new run" in capsys.readouterr().err
    assert (plain / "checkpoints" / "last.ckpt").read_bytes() == before
    assert cli.main(["search", "prune", "--run", str(plain), "--out", str(run)]) == 0
    assert f"tsl search profile --run {run}" in capsys.readouterr().out
    assert cli.main(["search", "profile", "--run", str(run), "--check", "0"]) == 0
    table = LatencyTable.load(run / "latency.json")
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["network"]
    space = nas.search_space(**config["init_args"]["space"])
    low, high = (table.predict(space.build(arch)) for arch in (space.smallest, space.largest))
    limit = (low + high) / 2
    arguments = ["--limit_ms", str(limit), "--trials", "12", "--algorithm", "random"]
    assert cli.main(["search", "run", "--run", str(run), *arguments]) == 0
    (result,) = (run / "search").glob("random-*.json")
    scores = json.loads(result.read_text())["searches"]["random"]
    assert all(trial["latency_ms"] <= limit < high for trial in scores["trials"])
    assert max(trial["miou"] for trial in scores["trials"]) > 0.5
    best = run / "search" / "best.json"
    arch = nas.Arch.from_json(best.read_text())
    assert arch.space.startswith("pruning-")
    out = tmp_path / "trained_on"
    derive = ["search", "derive", "--run", str(run), "--out", str(out), "--epochs", "2"]
    assert cli.main([*derive, "--model.learning_rate", "0.01"]) == 0
    assert json.loads((out / "scores.json").read_text())["miou"] > 0.5


def test_what_cannot_be_searched_is_said_once(trained, tmp_path, capsys):
    message = refused(trained, capsys, "--limit_ms", "0.001")
    assert "limit of latency in ms must be at least" in message
    assert "search: storage must be" in refused(
        trained, capsys, "--limit_ms", "1000", "--storage", "sqlite:////nowhere/at/all.db"
    )
    table = trained / "latency.json"
    before = table.read_text()
    content = json.loads(before)
    try:
        content["machine"]["processor"] = "Abacus"
        table.write_text(json.dumps(content))
        message = refused(trained, capsys, "--limit_ms", "1000")
        assert "latency.json must be of this machine" in message
        assert "got processor Abacus" in message
        table.write_text(json.dumps({**json.loads(before), "points": 7}))
        message = refused(trained, capsys, "--limit_ms", "1000")
        assert "LatencyTable.check_scan: scan must be of 7 points, as that of the table" in message
        table.unlink()
        assert "must be a file" in refused(trained, capsys, "--limit_ms", "1000")
        table.write_text(json.dumps(content))
        arguments = ["--limit_ms", "1000", "--trials", "2", "--anywhere", "--seed", "9"]
        assert cli.main(["search", "run", "--run", str(trained), *arguments]) == 0
    finally:
        table.write_text(before)
    assert "of this machine (dtype bfloat16), got dtype float32" in refused(
        trained, capsys, "--limit_ms", "1000", "--dtype", "bfloat16"
    )
    assert "--dtype must be one of" in refused(
        trained, capsys, "--limit_ms", "1000", "--dtype", "int8"
    )
    assert "must be given alone, got neither" in refused(trained, capsys)
    both = ["--limit_ms", "1000", "--limit_gmacs", "1"]
    assert "must be given alone, got both" in refused(trained, capsys, *both)
    both = ["--limit_ms", "1000", "--measured", "--anywhere"]
    assert "--measured must be without --anywhere" in refused(trained, capsys, *both)
    nothing = ["--limit_ms", "1000", "--data.val", "[]"]
    assert "data.val must be at least one data set, got none" in refused(trained, capsys, *nothing)
    for option, name in (("--calibration", "calibration"), ("--data.batch_size", "data")):
        more = ["--limit_ms", "1000", "--trials", "2", option, "3", "--seed", "9"]
        words = f"search: {name} and latency table must be as in"
        assert words in refused(trained, capsys, *more)
    assert "search: --scans must be at least 1, got 0" in refused(
        trained, capsys, "--limit_ms", "1000", "--scans", "0"
    )
    capsys.readouterr()
    assert cli.main(["validate", "--run", str(trained)]) == 1
    assert "must be of a network, got a supernet's. Take a network out" in capsys.readouterr().err
    out = str(tmp_path / "out")
    none = str(tmp_path / "none.json")
    derive = ["search", "derive", "--run", str(trained), "--out", out, "--arch", none]
    assert cli.main(derive) == 1
    assert "search: --arch must be a file" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text(nas.spvnas(16).smallest.to_json())
    assert cli.main([*derive[:-1], str(other)]) == 1
    assert "arch must be of space spvnas-4-0.25-0.2, got spvnas-16" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["supernet", "spvnas_supernet"])
def test_recipes_train_supernets(trained, tmp_path, recipe):
    run = tmp_path / "run"
    parts = ("--data.train", '[{sequences: ["00"]}]', "--data.val", "[]")
    where = ("--config", recipe, "--data.root", str(trained.parent / "scans"), *parts)
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.mix=[]")
    short += ("--data.workers=0",)
    assert cli.main(["search", "train", *where, "--run", str(run), *short]) == 0
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_a_space_is_the_same_after_its_config_was_written_and_read(trained, tmp_path):
    """Names of kernels must not turn into numbers on the way."""
    config = tmp_path / "lidar.yaml"
    space = "{kind: lidar, width: 0.125, deepest: 1, voxel_sizes: [0.2], blocks: [residual]}"
    config.write_text(
        SUPERNET.replace("{kind: spvnas, quantum: 4, width: 0.25, voxel_size: 0.2}", space)
    )
    run = tmp_path / "run"
    parts = ("--data.train", '[{sequences: ["00"]}]', "--data.val", '[{sequences: ["08"]}]')
    where = ("--config", str(config), "--data.root", str(trained.parent / "scans"), *parts)
    assert cli.main(["search", "train", *where, "--run", str(run), "--trainer.max_epochs=1"]) == 0
    arch = run / "arch.json"
    options = {"width": 0.125, "deepest": 1, "voxel_sizes": [0.2], "blocks": ["residual"]}
    arch.write_text(nas.lidar(**options).smallest.to_json())  # of kernels with few taps
    out = tmp_path / "out"
    derive = ["search", "derive", "--run", str(run), "--out", str(out), "--epochs", "1"]
    other = ["--model.weight_decay", "0.5", "--trainer.gradient_clip_val", "3.0"]
    assert cli.main([*derive, "--arch", str(arch), *other, "--dtype", "bfloat16"]) == 0
    assert cli.main(["validate", "--run", str(out)]) == 0
    text = (out / "config.yaml").read_text()
    assert "learning_rate: 0.02" in text  # of the supernet's run
    assert "weight_decay: 0.5" in text  # what the command line says beats the run
    assert "gradient_clip_val: 3.0" in text
    assert json.loads((out / "measured.json").read_text())["dtype"] == "bfloat16"
