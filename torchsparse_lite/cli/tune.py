# SPDX-License-Identifier: MIT
"""The part of ``tsl benchmark`` that measures tiles of implicit GEMM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from torchsparse_lite.cli.contest import Contestant
from torchsparse_lite.cli.progress import bar
from torchsparse_lite.models.setting import Setting
from torchsparse_lite.ops.gemm_tiles import gpu_of, write_tiles
from torchsparse_lite.ops.tune_gemm import (
    Convolution,
    Tuned,
    convolutions_of,
    table_layers,
    tune,
)
from torchsparse_lite.timing import race

__all__ = ["report", "tune_networks"]

_SECONDS = 0.3
"""Of timing for each layer and type, roughly."""


def tune_networks(contestants: Sequence[Contestant], device: torch.device, path: Path) -> None:
    """Measure the tiles for all layers of the networks, and write or extend a table.

    Args:
        contestants: the networks, each with its points.
        device: a GPU.
        path: of the table.
    """
    arch, processors = gpu_of(device.index)
    write_tiles(path, arch, {})  # what cannot be written is refused before the minutes, not after
    layers = table_layers(_convolutions(contestants, device))
    measure = partial(race, device=device, budget_s=_SECONDS, is_queued=True)
    tuned = [
        tune(layer, processors=processors, measure=measure)
        for layer in bar(layers, "tiles", len(layers))
    ]
    write_tiles(path, arch, {layer.key: layer.tile for layer in tuned})
    print("\n".join(report(tuned)))
    print(f"written to {path} for {arch}; it is used with TSL_GEMM_TILES={path}")


def _convolutions(contestants: Sequence[Contestant], device: torch.device) -> list[Convolution]:
    """In float32 without TF32, so that no table of tiles is asked for them."""
    setting = Setting(device)

    def run() -> None:
        for entry in contestants:
            network = setting.ready(entry.network)
            with torch.no_grad():
                network(setting.place(entry.points))

    return convolutions_of(run)


def report(tuned: Sequence[Tuned]) -> Iterator[str]:
    """What changed against the rule, line by line, and by how much, type by type."""
    for layer in tuned:
        if layer.tile != layer.by_rule:
            before, after = (f"{h}x{w}" for h, w in (layer.by_rule, layer.tile))
            yield (
                f"{layer.key:22s} {before:>7s} -> {after:7s} "
                f"{layer.by_rule_ms:8.3f} -> {layer.ms:8.3f} ms {_change(layer):+7.1%}"
            )
    for kind in dict.fromkeys(layer.key.split()[0] for layer in tuned):
        of_kind = [layer for layer in tuned if layer.key.startswith(f"{kind} ")]
        changed = sum(layer.tile != layer.by_rule for layer in of_kind)
        yield (
            f"{kind}: {changed} of {len(of_kind)} layers take another tile than the rule's; all "
            f"take {sum(x.ms for x in of_kind):.3f} ms, by the rule "
            f"{sum(x.by_rule_ms for x in of_kind):.3f} ms ({_change(*of_kind):+.1%})"
        )


def _change(*layers: Tuned) -> float:
    before = sum(layer.by_rule_ms for layer in layers)
    return sum(layer.ms for layer in layers) / before - 1 if before else 0.0
