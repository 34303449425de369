# SPDX-License-Identifier: MIT
"""``tsl search``: a supernet, a latency table, the search, and the network that it finds."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.cli import LightningArgumentParser

from torchsparse_lite.cli.derive import Derive, Prune
from torchsparse_lite.cli.progress import bar
from torchsparse_lite.cli.search_run import RunSearch
from torchsparse_lite.cli.supernet_command import TABLE, SupernetCommand
from torchsparse_lite.cli.training import TrainCommand, quiet
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.nas.latency import network_latency, profile_latency
from torchsparse_lite.train.module import Segmentation
from torchsparse_lite.train.subnets import SupernetSegmentation

__all__ = ["search"]


def search(arguments: list[str]) -> None:
    """Find an architecture: train, profile, run, derive."""
    parser = argparse.ArgumentParser("tsl search", description=search.__doc__)
    parser.add_argument(
        "step", choices=_STEPS, help="; ".join(f"{k}: {v.description}" for k, v in _STEPS.items())
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    with quiet():
        _STEPS[options.step](options.rest).run()


class _Train(TrainCommand):
    name = "search train"
    description = "train all networks of a space in one set of weights"
    trains: ClassVar[type[Segmentation]] = SupernetSegmentation


class _Profile(SupernetCommand):
    name = "search profile"
    description = "measure how long the parts of its networks take on a device of this machine"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--check", type=int, default=30, help="networks to check the table with"
        )

    def run(self) -> None:
        keep_host_memory()
        supernet, scan, setting = self.model.supernet, self.scan(), self.setting
        table = profile_latency(supernet.space, scan, setting, progress=bar, **supernet.options)
        rng = np.random.default_rng(1)
        errors = []
        for _ in bar(range(self.config["check"]), "check", self.config["check"]):
            network = supernet.space.build(supernet.space.sample(rng), **supernet.options)
            measured = network_latency(network, scan, setting)
            errors.append(abs(table.predict(network) - measured) / measured)
        if errors:
            middle, most = float(np.median(errors)), float(max(errors))
            table = replace(table, errors={"median": middle, "largest": most})
            print(f"error over {len(errors)} networks: median {middle:.1%}, largest {most:.1%}")
        table.save(self.folder / TABLE)
        print(f"written to {self.folder / TABLE}")


_STEPS: dict[str, Any] = {
    "train": _Train,
    "profile": _Profile,
    "run": RunSearch,
    "derive": Derive,
    "prune": Prune,
}
