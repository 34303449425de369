# SPDX-License-Identifier: MIT
"""The whole way once: streets, a network that learns them, its scores, its pictures, its speed.

Run: make demo    (or: python -m examples.demo)

Simulates LiDAR scans of streets, trains a small SPVCNN on them, validates it on streets that it has
never seen, labels those, and draws what it did. Each step is a ``tsl`` command that is printed
before it runs. A second run finds what the first one made, and goes on where it was stopped.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

from torchsparse_lite import cli

OUTPUT = Path("demo_output")
STREETS, RUN = OUTPUT / "streets", OUTPUT / "run"
# SemanticKITTI's own numbers: 11 to 21 are its test sequences, without labels.
TRAIN = [f"{number:02d}" for number in (*range(8), 9, 10, *range(22, 42))]
UNSEEN = [f"{number:02d}" for number in range(90, 96)]
FRAMES = 4


def main() -> None:
    """Run the commands."""
    start = time.monotonic()
    train = [{"sequences": TRAIN}]
    unseen = [{"sequences": UNSEEN}]
    tsl("simulate", STREETS, "--frames", FRAMES, "--interval", 2, "--sequences", *TRAIN, *UNSEEN)
    tsl(
        *("train", "--config", "small", "--run", RUN, "--resume", "--data.root", STREETS),
        *("--data.train", json.dumps(train), "--data.val", "[]"),
    )
    tsl("validate", "--run", RUN, "--data.val", json.dumps(unseen))
    tsl("predict", "--run", RUN, "--data.predict", json.dumps([{"sequences": UNSEEN[:1]}]))
    pictures = [draw(UNSEEN[0], f"{frame:06d}") for frame in (0, FRAMES - 1)]
    scores = json.loads((RUN / "scores.json").read_text())
    print(f"""
Mean IoU {scores["miou"]:.3f} over {len(scores["iou"])} classes, accuracy {scores["accuracy"]:.3f}
on {len(UNSEEN) * FRAMES} scans of streets that were not trained on.

streets       {STREETS}
network       {RUN / "checkpoints" / "last.ckpt"}, its settings in {RUN / "config.yaml"}
scores        {RUN / "scores.json"}
learning      tensorboard --logdir {RUN / "log"}
predictions   {RUN / "predictions"}
pictures      {", ".join(map(str, pictures))}

{time.monotonic() - start:.0f} s. Your own scans come next: give tsl train another --data.root.""")


def tsl(*arguments: object) -> None:
    """Print a command, run it, and stop if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ tsl {shlex.join(words)}", flush=True)
    status = cli.main(words)
    if status:
        sys.exit(status)


def draw(sequence: str, frame: str) -> Path:
    """Labels, prediction and errors of one scan as PNG."""
    folder = STREETS / "sequences" / sequence
    path = OUTPUT / f"street_{sequence}_{frame}.png"
    tsl(
        *("view", folder / "velodyne" / f"{frame}.bin"),
        *("--label", folder / "labels" / f"{frame}.label", "--png", path, "--prediction"),
        RUN / "predictions" / "sequences" / sequence / "predictions" / f"{frame}.label",
    )
    return path


if __name__ == "__main__":
    main()
