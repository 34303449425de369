# SPDX-License-Identifier: MIT
"""Pruning of a trained network under a limit of latency: the test ``pruning`` of the search.

SPVCNN of the recipe ``small`` is trained on simulated streets. Channels and taps are searched under
60 % of its latency, and what is found is trained on. Beside it stand the same network with the same
share of channels left in every layer, trained on as well, and SPVCNN narrowed, trained from nothing
for as many steps; both as wide as the latency of the found one allows, measured. All are tested on
unseen streets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from benchmarks.streets import (
    CHOOSE,
    DERIVED,
    DERIVED_EPOCHS,
    FEW_SCANS,
    LIMIT,
    UNSEEN,
    first_scan,
    largest_as_fast,
    latencies,
    narrowed,
    of_width,
    scans_and_seeds,
    simulate,
    width_as_fast_as,
)
from benchmarks.training import measured_once, scores_of, timed, trained
from torchsparse_lite import nas

__all__ = ["rows"]

_WIDTH = 0.5
_EPOCHS = 5
_TRIALS = 100
_SHARES = 32


def rows(runs: Path, seed: int) -> list[dict[str, Any]]:
    """Scores of the four networks.

    Args:
        runs: folder of all runs.
        seed: of the training and the search.
    """
    data = scans_and_seeds(simulate(runs), seed)
    scan = first_scan(runs / "streets", CHOOSE[0])
    whole, supernet = runs / f"whole-{seed}", runs / f"prunable-{seed}"
    made = {
        "whole": whole,
        "found": runs / f"pruned-{seed}",
        "evenly": runs / f"evenly-{seed}",
        "narrow": runs / f"narrow-beside-pruned-{seed}",
    }
    small = ("--config", "small", *data)
    trained(whole, "train", *small, *of_width(_WIDTH), "--trainer.max_epochs", _EPOCHS)

    def once(name: str, measure: Callable[[], float]) -> float:
        return measured_once(runs / f"pruning-{name}-{seed}.json", measure)

    before = {"whole": narrowed(_WIDTH)}
    limit_ms = once("limit_ms", lambda: round(LIMIT * latencies(before, scan)["whole"], 2))
    best = _searched(whole, supernet, limit_ms, seed)
    space = nas.search_space(**_network_of(supernet)["init_args"]["space"])
    found = _built(supernet, space, nas.Arch.from_json(best.read_text()))
    shares = {str(n): _evenly(space, n / _SHARES) for n in range(1, _SHARES + 1)}
    built = {n: _built(supernet, space, arch) for n, arch in shares.items()}
    share = f"{once('share', lambda: float(largest_as_fast(found, built, scan))):g}"
    even = supernet / "search" / "evenly.json"
    even.write_text(shares[share].to_json())
    for kind, arch in (("found", best), ("evenly", even)):
        where = ("--run", supernet, "--arch", arch, "--out", made[kind])
        timed(made[kind] / "measured.json", "search", "derive", *where, *DERIVED)
    width = once("width", lambda: width_as_fast_as(found, scan))
    as_long = ("--trainer.max_epochs", _EPOCHS + DERIVED_EPOCHS)
    trained(made["narrow"], "train", *small, *of_width(width), *as_long)
    networks = {
        "whole": narrowed(_WIDTH),
        "found": found,
        "evenly": built[share],
        "narrow": narrowed(width),
    }
    times = latencies(networks, scan)
    return [
        {
            "network": kind,
            "latency_ms": times[kind],
            "latency_vs_whole": times[kind] / times["whole"],
            "parameters": sum(p.numel() for p in network.parameters()),
            **scores_of(made[kind], [{"sequences": UNSEEN}]),
        }
        for kind, network in networks.items()
    ]


def _searched(whole: Path, supernet: Path, limit_ms: float, seed: int) -> Path:
    """The architecture that the search finds in the trained network."""
    weights = supernet / "checkpoints" / "last.ckpt"
    timed(weights, "search", "prune", "--run", whole, "--out", supernet)
    timed(supernet / "latency.json", "search", "profile", "--run", supernet)
    best = supernet / "search" / "best.json"
    how = ("--limit_ms", limit_ms, "--trials", _TRIALS, "--seed", seed)
    timed(best, "search", "run", "--run", supernet, *how, *FEW_SCANS)
    return best


def _evenly(space: nas.SearchSpace, share: float) -> nas.Arch:
    """All channels at this share, all taps."""
    chosen = {
        gene.name: min(gene.options, key=lambda o: abs(float(o) - share * float(most)))
        if gene.is_width
        else most
        for gene in space.genes
        for most in gene.options[-1:]
    }
    return space.arch(chosen)


def _network_of(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["model"]["network"]
    return config


def _built(run: Path, space: nas.SearchSpace, arch: nas.Arch) -> nn.Module:
    return space.build(arch, **_network_of(run)["dict_kwargs"])
