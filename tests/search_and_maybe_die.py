# SPDX-License-Identifier: MIT
"""A search with a cheap score, killed by its own hand: ``... STORAGE ALGORITHM TRIALS DIE_AT``."""

from __future__ import annotations

import os
import signal
import sys
import time

from torchsparse_lite import nas
from torchsparse_lite.nas.constraint import Constraint
from torchsparse_lite.nas.search import search

SPACE = nas.spvnas(16)
LIMIT = 3000.0


def width(arch):
    return float(sum(value for name, value in arch.items() if not name.endswith("depth")))


def score(arch):
    """Wide up stages are good, the first ones less so, and wide down stages bad; so is depth.

    What meets the limit and is as wide as it allows is far from the best: stages share the width.
    """
    worth = sum(
        (1.0 + int(name.split(".")[1]) if "up" in name else -1.0) * value**0.5
        for name, value in arch.items()
        if not name.endswith("depth")
    )
    depth = sum(value for name, value in arch.items() if name.endswith("depth"))
    return {"good": worth - 5.0 * depth, "width": width(arch)}


def run(
    storage,
    algorithm,
    trials,
    *,
    seed=0,
    die_at=-1,
    population=None,
    pause_s=0.0,
    name="search",
    limit=LIMIT,
):
    looked_at = []

    def evaluate(arch):
        looked_at.append(arch)
        if len(looked_at) == die_at + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause_s)
        return score(arch)

    return search(
        SPACE,
        evaluate,
        {"good": True, "width": False},
        trials=trials,
        algorithm=algorithm,
        population=population,
        constraint=Constraint("width in channels", limit, width),
        seed=seed,
        storage=storage,
        name=name,
    )


if __name__ == "__main__":
    # A pause, so that the second of two that are started has something left to do.
    die_at = int(sys.argv[4])
    pause_s = 0.05 if die_at < 0 else 0.0
    result = run(sys.argv[1], sys.argv[2], int(sys.argv[3]), die_at=die_at, pause_s=pause_s)
    sys.stdout.write(f"{len(result.trials)}\n")
