# SPDX-License-Identifier: MIT
"""What networks learn from the few real scans at hand: ``python -m benchmarks.real_scans``.

Three tests, each ``tsl train`` and ``tsl validate``. The recipe is ``small`` with finer voxels and
all points of a scan; the commands are printed.

overfit    train and test on 00/000000, voxels of 5 cm
neighbor   train on 00/000000 and 00/000002, test on 00/000001
far        train on every frame of sequence 00, test on 08/000000, which nothing was tuned on:
           from nothing, on simulated streets alone, and on the real frames after the streets

Scans are looked for under ``TSL_DATA`` and under ``shared/data`` beside the repository.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.run import environment, write_result
from benchmarks.training import find_data, scores_of, timed, trained

_ROOT = Path(__file__).resolve().parent
_FRAMES = [f"00/{frame:06d}" for frame in range(6)]  # the last three have labels in part
_RANGE_FRAMES = [f"00/{frame:06d}" for frame in (8, 12, 16, 20)]  # nearest points of range images
_STREETS = [str(number) for number in range(22, 82)]  # beyond the sequences of the data set
_VOXEL = "--model.network.init_args.voxel_size"
_TRANSFORMS = [
    {
        "class_path": "torchsparse_lite.data.RotateZ",
        "init_args": {"low_rad": -0.1, "high_rad": 0.1},
    },
    {"class_path": "torchsparse_lite.data.Flip"},
    {"class_path": "torchsparse_lite.data.Scale", "init_args": {"low": 0.9, "high": 1.1}},
]
_FINER = (f"{_VOXEL}=0.1", f"--data.transforms={json.dumps(_TRANSFORMS)}")
"""Voxels of 10 cm, all points of a scan."""


def main(arguments: list[str] | None = None) -> None:
    """Run the tests that are asked for, and keep their scores."""
    parser = argparse.ArgumentParser("python -m benchmarks.real_scans", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("tests", nargs="*", default=["overfit", "neighbor", "far"])
    parser.add_argument("--data", type=Path, default=None, help="folder with semantickitti/")
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="where networks go")
    parser.add_argument("--out", type=Path, default=_ROOT / "results", help="folder of the result")
    options = parser.parse_args(arguments)
    tests: dict[str, Callable[[Path, Path], list[dict[str, Any]]]]
    tests = {"overfit": _overfit, "neighbor": _neighbor, "far": _far}
    unknown = [name for name in options.tests if name not in tests]
    if unknown:
        parser.error(f"tests are {', '.join(tests)}, got {', '.join(unknown)}")
    data = options.data or find_data()
    rows = [
        {"test": name, "threads": torch.get_num_threads(), **row}
        for name in options.tests
        for row in tests[name](data, options.runs)
    ]
    for row in rows:
        print(
            f"{row['test']:9s} {row['what']:32s} mean IoU {row['miou']:.3f} over "
            f"{len(row['iou'])} classes, accuracy {row['accuracy']:.3f}, "
            f"{row['minutes']:.1f} minutes"
        )
    write_result("real_scans", environment(), rows, options.out)


def _overfit(data: Path, runs: Path) -> list[dict[str, Any]]:
    root = data / "semantickitti"
    whole = {"root": str(root), "files": _FRAMES[:1]}
    plain = ("--data.transforms=[]", "--data.mix=[]")
    more = (f"{_VOXEL}=0.05", *plain, "--trainer.max_epochs=4")
    run = runs / "overfit"
    seconds = _train(run, [{**whole, "repeats": 40}], *more)
    return [_scores("the scan itself", run, whole, seconds)]


def _neighbor(data: Path, runs: Path) -> list[dict[str, Any]]:
    root = str(data / "semantickitti")
    around = {"root": root, "files": [_FRAMES[0], _FRAMES[2]], "repeats": 20}
    between = {"root": root, "files": [_FRAMES[1]]}
    run = runs / "neighbor"
    seconds = _train(run, [around], *_FINER, "--trainer.max_epochs=5")
    return [_scores("frames before and after", run, between, seconds)]


def frames_of_sequence_0(data: Path) -> list[dict[str, Any]]:
    """All that is there: whole, labelled in part, and the nearest points of range images."""
    return [
        {"root": str(data / "semantickitti"), "files": _FRAMES, "repeats": 20},
        {"root": str(data / "semantickitti_range"), "files": _RANGE_FRAMES, "repeats": 20},
    ]


def unseen_frame(data: Path) -> dict[str, Any]:
    """08/000000: another town, and nothing was tuned on it."""
    return {"root": str(data / "semantickitti"), "files": ["08/000000"]}


def _far(data: Path, runs: Path) -> list[dict[str, Any]]:
    real, test = frames_of_sequence_0(data), unseen_frame(data)
    streets = runs / "streets"
    how = ("--frames", 6, "--interval", 2, "--sequences", *_STREETS)
    spent = timed(streets, "simulate", streets, *how)
    simulated = {"root": str(streets), "sequences": _STREETS, "has_labels": True}
    some = {"root": str(streets), "sequences": _STREETS[::2], "has_labels": True}

    before = runs / "far_streets"
    spent += _train(before, [simulated], *_FINER, "--trainer.max_epochs=3")
    init = f"--init={before / 'checkpoints' / 'last.ckpt'}"
    after = runs / "far_streets_then_real"
    gentle = ("--model.learning_rate=0.002", "--trainer.max_epochs=2")
    seconds = _train(after, [*real, some], *_FINER, *gentle, init)
    alone = runs / "far_real"
    real_seconds = _train(alone, real, *_FINER, "--trainer.max_epochs=2")
    return [
        _scores("simulated streets alone", before, test, spent),
        _scores("real frames alone", alone, test, real_seconds),
        _scores("streets, then streets and frames", after, test, spent + seconds),
    ]


def _train(run: Path, train: list[dict[str, Any]], *more: str) -> float:
    """Seconds that the training took."""
    scans = ("--data.train", json.dumps(train), "--data.val", "[]")
    return trained(run, "train", "--config", "small", *scans, *more)


def _scores(what: str, run: Path, test: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {"what": what, "minutes": round(seconds / 60, 1), **scores_of(run, [test])}


if __name__ == "__main__":
    main()
