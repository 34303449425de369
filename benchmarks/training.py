# SPDX-License-Identifier: MIT
"""What the benchmarks that train have in common: ``tsl`` commands, their time, where scans are."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.run import product_commit
from torchsparse_lite import cli
from torchsparse_lite.whole_file import write_whole

__all__ = ["call", "find_data", "measured_once", "scores_of", "timed", "trained"]

_ROOT = Path(__file__).resolve().parent


def find_data() -> Path:
    """The folder with the real scans; ends the program with a word if there is none."""
    for folder in (os.environ.get("TSL_DATA"), _ROOT.parent.parent / "shared" / "data"):
        if folder and (Path(folder) / "semantickitti").is_dir():
            return Path(folder)
    sys.exit("No semantickitti/ under TSL_DATA or ../shared/data: pass --data.")


def call(*arguments: object) -> None:
    """Print a ``tsl`` command, run it, and stop if it fails."""
    words = [str(argument) for argument in arguments]
    print("$ tsl", shlex.join(words), flush=True)
    status = cli.main(words)
    if status:
        sys.exit(status)


def timed(made: Path, *arguments: object) -> float:
    """Run a command unless it ended before; seconds from its first start to its end.

    Ends the program with a word if another command made it, or the code of another commit: that
    would be another network. What changed in the benchmarks alone shows in the command.

    Args:
        made: file or folder that the command makes; the times are kept beside its run.
        *arguments: of ``tsl``.
    """
    clock = made.with_name(f"{made.name}.clock.json")
    words = [str(argument) for argument in arguments]
    by = {"command": words, "commit": product_commit()}
    times: dict[str, Any] = {"start": time.time(), **by}
    if clock.is_file():
        times = json.loads(clock.read_text())
    other = [key for key in by if times.get(key) != by[key]]
    if other:
        sys.exit(
            f"{made} was made by another {other[0]}: see {clock}; remove both, or give --runs."
        )
    if not (made.exists() and "end" in times):
        _write(clock, times)
        call(*arguments)
        times["end"] = time.time()
        _write(clock, times)
    return float(times["end"] - times["start"])


def measured_once(path: Path, measure: Callable[[], float]) -> float:
    """A number that a command depends on, so that what was stopped goes on with the same.

    Args:
        path: of the file that keeps it.
        measure: called if there is none.
    """
    if not path.is_file():
        _write(path, measure())
    return float(json.loads(path.read_text()))


def _write(path: Path, value: Any) -> None:
    write_whole("benchmarks.training", path, json.dumps(value).encode())


def trained(run: Path, *arguments: object) -> float:
    """Train in this folder, or go on; seconds as for :func:`timed`."""
    made = run / "checkpoints" / "last.ckpt"
    return timed(made, *arguments, "--run", run, "--resume")


def scores_of(run: Path, test: list[dict[str, Any]]) -> dict[str, Any]:
    """Validate a run's network on these scans."""
    call("validate", "--run", run, "--data.val", json.dumps(test))
    scores: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return scores
