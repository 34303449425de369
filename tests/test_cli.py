# SPDX-License-Identifier: MIT
"""``tsl`` as users run it: a tiny training to its submission, resumed, doubled, and disturbed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from house_form import FORM
from two_grounds import BUILDING, POINTS, ROAD, write_two_grounds

pytest.importorskip("lightning", reason="the extra train is not installed")

from torchsparse_lite import cli
from torchsparse_lite.train.losses import SegmentationLoss

# Lightning's own: hints about workers and loggers, and what it calls of torch.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

TESTS = Path(__file__).parent
NETWORK = """
model:
  network:
    class_path: torchsparse_lite.models.spvcnn
    init_args: {width: 0.125, voxel_size: 0.2}
  loss:
    class_path: torchsparse_lite.train.losses.SegmentationLoss
    init_args: {lovasz: 1.0}
  learning_rate: 0.02
data:
  workers: 0
  transforms:
    - class_path: torchsparse_lite.data.RotateZ
trainer:
  max_epochs: 4
  enable_progress_bar: false
"""


@pytest.fixture
def scans(tmp_path):
    return write_two_grounds(tmp_path / "scans", {"00": 4, "08": 1, "11": 2})


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(NETWORK)
    return path


def train_arguments(config, scans, run, *more):
    where = ["--config", str(config), "--data.root", str(scans), "--run", str(run)]
    return ["train", *where, "--data.train", '[{sequences: ["00"]}]', *more]


def start(*arguments, die_at=None, die_by=signal.SIGKILL, **options):
    """Run ``tsl`` in a process of its own."""
    command = [sys.executable, "-m", "torchsparse_lite.cli", *arguments]
    if die_at is not None:
        script = str(TESTS / "train_and_maybe_die.py")
        command = [sys.executable, script, str(die_at), str(int(die_by)), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )


def weights(run, name="last"):
    path = run / "checkpoints" / f"{name}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance)


def test_from_training_to_a_submission(tmp_path, scans, config, capsys):
    run = tmp_path / "run"
    more = ("--data.val", '[{sequences: ["08"]}]', "--trainer.max_epochs", "12")
    assert cli.main(train_arguments(config, scans, run, *more)) == 0
    assert "mean over 2 classes" in capsys.readouterr().out
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list((run / "log").glob("events*"))
    (run / "scores.json").unlink()

    assert cli.main(["validate", "--run", str(run), "--model.views", "2"]) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert scores["iou"].keys() == {"road", "building"}
    assert scores["miou"] > 0.9
    assert scores["accuracy"] > 0.95

    capsys.readouterr()
    assert cli.main(["predict", "--run", str(run), "--data.predict", '[{sequences: ["11"]}]']) == 0
    printed = capsys.readouterr().out
    for stage in ("load", "voxelize", "map", "network", "devoxelize", "total", "2 label files"):
        assert stage in printed
    for frame in range(2):
        name = f"{frame:06d}.label"
        written = run / "predictions" / "sequences" / "11" / "predictions" / name
        predicted = np.fromfile(written, "<u4")
        truth = np.fromfile(scans / "sequences" / "11" / "labels" / name, "<u4")
        assert len(predicted) == POINTS
        assert set(predicted.tolist()) <= {ROAD, BUILDING}
        assert np.mean(predicted == truth) > 0.95


MODERN = (
    "--trainer.accumulate_grad_batches=2",
    "--trainer.gradient_clip_val=1.0",
    "--data.batch_size=1",
    "--data.workers=1",
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
    "--trainer.callbacks.decay=0.9",
)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, scans, config):
    """kill -9 in the middle of the third epoch, then the same command again."""
    whole = start(*train_arguments(config, scans, tmp_path / "whole", *MODERN), die_at=-1)
    assert whole.returncode == 0, whole.stderr
    arguments = train_arguments(config, scans, tmp_path / "killed", *MODERN, "--resume")
    killed = start(*arguments, die_at=5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = weights(tmp_path / "killed")
    resumed = start(*arguments, die_at=1)  # long past, unless it begins anew
    assert resumed.returncode == 0, resumed.stderr
    after = weights(tmp_path / "killed")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert_same_weights(weights(tmp_path / "whole"), after, rtol=0, atol=0)


def test_two_processes_train_as_one(tmp_path, scans, config):
    """Half a batch each, norms synchronized, gradients averaged, validation shared out."""
    # Lovasz over two scans is not the mean of Lovasz over each; dropout draws by process. Steps
    # are small enough not to make much of the last bits.
    same = ("--model.optimizer=sgd", "--model.loss.lovasz=0", "--model.network.dropout=0")
    same = (*same, "--data.val", '[{sequences: ["11"], has_labels: true}]')
    same = (*same, "--trainer.max_epochs=1")
    still = train_arguments(config, scans, tmp_path / "still", *same, "--model.learning_rate=0")
    assert cli.main(still) == 0
    same = (*same, "--model.learning_rate=0.0005")
    one = start(*train_arguments(config, scans, tmp_path / "one", "--data.batch_size=2", *same))
    assert one.returncode == 0, one.stderr
    two = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.sync_batchnorm=true")
    two = ("--data.batch_size=1", *same, *two)
    result = start(*train_arguments(config, scans, tmp_path / "two", *two))
    assert result.returncode == 0, result.stderr
    still, one, two = (weights(tmp_path / name) for name in ("still", "one", "two"))
    for name in one:
        moved = (one[name] - still[name]).double().norm()
        apart = (two[name] - one[name]).double().norm()
        assert apart <= 0.01 * moved + 1e-6, name
    assert any(not torch.equal(one[name], still[name]) for name in one if "weight" in name)
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", "two")]
    assert scores[0]["accuracy"] == pytest.approx(scores[1]["accuracy"], abs=0.01)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns(tmp_path, scans, config, monkeypatch, precision):
    """Lightning's 16 is bfloat16 on a CPU, float16 on a GPU."""
    seen = set()
    whole = SegmentationLoss.forward

    def forward(self, scores, labels):
        seen.add(scores.dtype)
        return whole(self, scores, labels)

    monkeypatch.setattr(SegmentationLoss, "forward", forward)
    run = tmp_path / "run"
    more = ("--data.val", '[{sequences: ["08"]}]', "--trainer.max_epochs=12")
    more += (f"--trainer.precision={precision}",)
    assert cli.main(train_arguments(config, scans, run, *more)) == 0
    assert json.loads((run / "scores.json").read_text())["miou"] > 0.9
    assert seen == {torch.bfloat16}


def test_classes_are_balanced_by_their_points(tmp_path, scans, config, monkeypatch):
    given = []
    monkeypatch.setattr(SegmentationLoss, "weigh", lambda _, points: given.append(points))
    run = tmp_path / "run"
    more = ("--model.loss.balance=0.5", "--trainer.max_epochs=1")
    assert cli.main(train_arguments(config, scans, run, *more)) == 0
    (points,) = given
    assert int(points.sum()) == 4 * POINTS
    assert len(points.nonzero()) == 2


def test_a_run_is_not_overwritten(tmp_path, scans, config, capsys):
    arguments = train_arguments(config, scans, tmp_path / "run", "--trainer.max_epochs=1")
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 1
    assert "must be the folder of a new run, got one with a checkpoint" in capsys.readouterr().err


def test_other_settings_are_no_resuming(tmp_path, scans, config, capsys):
    run = tmp_path / "run"
    arguments = train_arguments(config, scans, run, "--trainer.max_epochs=1")
    assert cli.main(arguments) == 0
    before = (run / "config.yaml").read_bytes()
    assert cli.main([*arguments, "--resume", "--model.learning_rate=0.5"]) == 1
    assert "train: model.learning_rate must be as in" in one_message(capsys.readouterr().err)
    assert cli.main([*arguments, "--resume", "--data.seed=5", "--model.network.width=0.25"]) == 1
    assert "model.network and data.seed must be as in" in one_message(capsys.readouterr().err)
    assert cli.main([*arguments, "--resume", "--trainer.precision=bf16-mixed"]) == 1
    message = one_message(capsys.readouterr().err)
    assert "train: trainer.precision must be as in" in message
    assert "got 'bf16-mixed'" in message
    assert (run / "config.yaml").read_bytes() == before
    more = ("--resume", "--trainer.max_epochs=2", "--run")
    moved = run.rename(tmp_path / "moved")
    assert cli.main(["train", *more, str(moved)]) == 0
    assert weights(moved).keys() == weights(moved, "best").keys()


def test_a_run_that_died_early_begins_again_with_its_weights(tmp_path, scans, config):
    one = train_arguments(config, scans, tmp_path / "one", "--trainer.max_epochs=1")
    assert cli.main(one) == 0
    init = f"--init={tmp_path / 'one' / 'checkpoints' / 'last.ckpt'}"
    whole = start(*train_arguments(config, scans, tmp_path / "whole", init), die_at=-1)
    assert whole.returncode == 0, whole.stderr
    killed = start(*train_arguments(config, scans, tmp_path / "killed", init), die_at=1)
    assert killed.returncode == -signal.SIGKILL
    resumed = start("train", "--run", str(tmp_path / "killed"), "--resume", die_at=-1)
    assert resumed.returncode == 0, resumed.stderr
    both = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert_same_weights(*both, rtol=0, atol=0)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100, None])
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, scans, config, capsys, damage):
    run = tmp_path / "run"
    arguments = train_arguments(config, scans, run, "--trainer.max_epochs=1")
    assert cli.main(arguments) == 0
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content if damage is None else damage)
    assert cli.main([*arguments[:-1], "--trainer.max_epochs=2", "--resume"]) == 1
    message = one_message(capsys.readouterr().err)
    assert "must be a file written by torch.save" in message
    assert "last.ckpt" in message


def test_predictions_of_two_sources(tmp_path, scans, config, capsys):
    run = tmp_path / "run"
    assert cli.main(train_arguments(config, scans, run, "--trainer.max_epochs=1")) == 0
    predict = ["predict", "--run", str(run), "--data.predict"]
    assert cli.main([*predict, "[{sequences: [8]}, {sequences: [11]}]"]) == 0
    written = sorted(path.relative_to(run).as_posix() for path in run.rglob("*.label"))
    folder = "predictions/sequences"
    names = ["08/predictions/000000", "11/predictions/000000", "11/predictions/000001"]
    assert written == [f"{folder}/{name}.label" for name in names]
    capsys.readouterr()
    assert cli.main([*predict, "[{sequences: [8]}, {sequences: [8]}]"]) == 1
    assert "scans of different names, got 08/000000 twice" in one_message(capsys.readouterr().err)
    assert cli.main([*predict, "[{sequences: [8], drop_invalid: true}]"]) == 1
    assert "ScanData: predict must be without drop_invalid" in capsys.readouterr().err


def test_weights_to_begin_with(tmp_path, scans, config, capsys):
    one = train_arguments(config, scans, tmp_path / "one", "--trainer.max_epochs=1")
    assert cli.main(one) == 0
    init = f"--init={tmp_path / 'one' / 'checkpoints' / 'last.ckpt'}"
    still = ("--model.learning_rate=0", "--trainer.max_epochs=1", init)
    assert cli.main(train_arguments(config, scans, tmp_path / "two", *still)) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    name = "network.classifier.weight"
    assert torch.equal(one[name], two[name])
    wider = "--model.network.init_args.width=0.25"
    assert cli.main(train_arguments(config, scans, tmp_path / "three", *still, wider)) == 1
    assert "must be of shape" in capsys.readouterr().err


def test_ctrl_c_stops_and_resuming_goes_on(tmp_path, scans, config):
    """One line, status 130, and the last whole epoch to go on from."""
    run = tmp_path / "run"
    arguments = train_arguments(config, scans, run, "--trainer.max_epochs=3", "--resume")
    stopped = start(*arguments, die_at=5, die_by=signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "tsl train: stopped" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(weights(run)) > 0
    resumed = start(*arguments, die_at=1)  # long past, unless it begins anew
    assert resumed.returncode == 0, resumed.stderr
    whole = start(*train_arguments(config, scans, tmp_path / "whole", *arguments[-2:-1]), die_at=-1)
    assert whole.returncode == 0, whole.stderr
    assert_same_weights(weights(run), weights(tmp_path / "whole"), rtol=0, atol=0)


def one_message(result_or_text):
    """The text, which has to be short and no traceback."""
    text = result_or_text if isinstance(result_or_text, str) else result_or_text.stderr
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) <= 2, text
    return text


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, scans, config):
    run = tmp_path / "run"
    first = start(*train_arguments(config, scans, run, "--trainer.max_epochs=1"))
    assert first.returncode == 0, first.stderr
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    limit = len(before) // 2

    def fill_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    resumed = start(
        *train_arguments(config, scans, run, "--trainer.max_epochs=2", "--resume"),
        preexec_fn=fill_disk,
    )
    assert resumed.returncode == 1, resumed.stderr
    message = one_message(resumed)
    assert "last.ckpt must be writable, got File too large" in message
    assert last.read_bytes() == before
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


def damage_scan(scans):
    path = scans / "sequences" / "00" / "velodyne" / "000001.bin"
    path.write_bytes(path.read_bytes()[:-3])


def damage_label(scans):
    path = scans / "sequences" / "00" / "labels" / "000001.label"
    labels = np.fromfile(path, "<u4")
    labels[7] = 333
    labels.tofile(path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_scan, ["000001.bin", "16 bytes"]), (damage_label, ["000001.label", "333"])],
)
def test_damaged_files_are_named(tmp_path, scans, config, damage, words, workers, capsys):
    damage(scans)
    more = (f"--data.workers={workers}", "--trainer.max_epochs=1")
    assert cli.main(train_arguments(config, scans, tmp_path / "run", *more)) == 1
    message = one_message(capsys.readouterr().err)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["--model.lerning_rate=1"], 2, ["lerning_rate"]),
        (["--data.train", "[{sequence: 00}]"], 1, ["ScanData: train must be options"]),
        (["--data.train", "[]"], 1, ["ScanData: train must be at least one data set"]),
        (["--data.batch_size=9"], 1, ["ScanData: train must be at least 9 scans", "got 4"]),
        (["--data.val", "[{sequences: [8], card: ika_11}]"], 1, ["classes of the first source"]),
        (["--trainer.accelerator=gpu"], 1, ["gpu"]),
        (["--data.batch_size=0"], 1, ["ScanData: batch_size must be at least 1, got 0"]),
        (["--data.workers=-1"], 1, ["ScanData: workers must be at least 0, got -1"]),
        (["--data.dataset=kitti"], 1, ["ScanData: dataset must be one of semantickitti"]),
        (["--data.root=nowhere"], 1, ["nowhere", "must be"]),
        (["--data.root=null"], 1, ["ScanData: root must be a folder, got none"]),
        (["--model.network.init_args.num_classes=3"], 1, ["gives 19 scores", "num_classes=19"]),
        (["--model.loss.balance=2"], 1, ["SegmentationLoss: balance must be from 0 to 1"]),
        (["--init=nowhere.ckpt"], 1, ["must be an existing file, got nowhere.ckpt"]),
    ],
)
def test_wrong_arguments(tmp_path, scans, config, capsys, more, status, words):
    arguments = train_arguments(config, scans, tmp_path / "run", *more)
    assert cli.main(arguments) == status
    message = one_message(capsys.readouterr().err)
    assert all(word in message for word in words), message


def test_an_unknown_recipe(capsys):
    assert cli.main(["train", "--config", "postmodern"]) == 1
    message = one_message(capsys.readouterr().err)
    assert FORM.match(message.removeprefix("tsl train: "))
    assert "train: --config must be a file or one of the recipes modern, small, spvnas" in message
    assert "got 'postmodern'" in message
    assert cli.main(["validate", "--run", "nowhere"]) == 1
    assert FORM.match(one_message(capsys.readouterr().err).removeprefix("tsl validate: "))
    assert cli.main(["train", "--config"]) == 2
    assert "--config" in capsys.readouterr().err


def test_configs_need_not_be_files(tmp_path, config, monkeypatch, capsys):
    """A path from the home folder, and the settings themselves."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--config=~/tiny.yaml", "--config", "{model: {learning_rate: 0.5}}"]
    with pytest.raises(SystemExit):
        cli.main(["train", *given, "--print_config"])
    printed = capsys.readouterr().out
    assert "learning_rate: 0.5" in printed
    assert "width: 0.125" in printed


def test_a_wrong_key_in_the_config_file(tmp_path, scans, config, capsys):
    config.write_text(NETWORK.replace("learning_rate", "learning_rates"))
    assert cli.main(train_arguments(config, scans, tmp_path / "run")) == 2
    assert "learning_rates" in one_message(capsys.readouterr().err)


def test_a_damaged_checkpoint(tmp_path, scans, config, capsys):
    run = tmp_path / "run"
    assert cli.main(train_arguments(config, scans, run, "--trainer.max_epochs=1")) == 0
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    assert cli.main(["validate", "--run", str(run)]) == 1
    assert "must be a file written by torch.save" in one_message(capsys.readouterr().err)
    assert cli.main(["validate", "--run", str(tmp_path / "none")]) == 1
    assert "must be the folder of a run, with config.yaml" in capsys.readouterr().err


def test_validation_needs_scans(tmp_path, scans, config, capsys):
    run = tmp_path / "run"
    more = ("--trainer.max_epochs=1", "--data.val=[]")
    assert cli.main(train_arguments(config, scans, run, *more)) == 0
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert cli.main(["validate", "--run", str(run)]) == 1
    assert "validate: data.val must be at least one data set" in capsys.readouterr().err
    assert cli.main(["validate", "--run", str(run), "--data.val", "[{sequences: [8]}]"]) == 0


def test_recipes_are_configs_by_name(capsys):
    for recipe in ("modern", "small", "spvnas"):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["train", "--config", recipe, "--print_config"])
        assert exit_.value.code in (0, None)
        printed = capsys.readouterr().out
        assert "torchsparse_lite.models.spvcnn" in printed


@pytest.mark.parametrize("recipe", ["modern", "small", "spvnas"])
def test_recipes_train(tmp_path, scans, recipe):
    arguments = train_arguments(recipe, scans, tmp_path / "run", "--data.workers=0")
    small = ("--model.network.width=0.125", "--data.batch_size=2", "--trainer.max_epochs=1")
    assert cli.main([*arguments, *small, "--trainer.limit_train_batches=1"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "a convolution      right" in printed


def test_simulate_and_view(tmp_path, capsys, monkeypatch):
    pytest.importorskip("embreex", reason="the extra sim is not installed")
    pytest.importorskip("matplotlib", reason="the extra viz is not installed")
    root = tmp_path / "streets"
    assert cli.main(["simulate", str(root), "--sequences", "03", "--frames", "1"]) == 0
    scan = root / "sequences" / "03" / "velodyne" / "000000.bin"
    label = root / "sequences" / "03" / "labels" / "000000.label"
    assert str(root / "sequences" / "03") in capsys.readouterr().out
    png = tmp_path / "scan.png"
    files = ["--label", str(label), "--prediction", str(label), "--png", str(png)]
    assert cli.main(["view", str(scan), *files]) == 0
    assert png.stat().st_size > 10_000
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["view", str(scan)]) == 0
    assert (tmp_path / "000000.png").exists()
    assert cli.main(["view", str(scan), "--label", str(scan)]) == 1


def test_help_and_wrong_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    assert "simulate" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        cli.main(["fly"])
    assert exit_.value.code == 2
