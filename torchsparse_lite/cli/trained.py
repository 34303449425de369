# SPDX-License-Identifier: MIT
"""A trained network out of the folder of its run, for commands that Lightning does not run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from torchsparse_lite.cli.training import CONFIG, TrainedCommand, quiet
from torchsparse_lite.errors import refuse

__all__ = ["load_trained"]

# Where it was trained does not matter to whom only wants the network.
_HERE = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto")


class _Benchmark(TrainedCommand):
    name = "benchmark"
    description = "Latency of a trained network."


def load_trained(folder: str, checkpoint: str | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a run, and the features of points that it was trained with.

    Args:
        folder: of the run.
        checkpoint: by default the best of the run.
    """
    if not (Path(folder) / CONFIG).is_file():
        rule, remedy = (
            f"the folder of a run, with {CONFIG}",
            "Give the folder that tsl train wrote.",
        )
        refuse("benchmark: --run", rule, folder, remedy, error=FileNotFoundError)
    chosen = () if checkpoint is None else (f"--checkpoint={checkpoint}",)
    with quiet():
        command = _Benchmark([f"--run={folder}", *_HERE, *chosen])
        command.load_trained()
    return command.model.network, command.datamodule.features
