# SPDX-License-Identifier: MIT
"""``tsl search derive`` and ``tsl search prune``: from a supernet to a network, and back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningArgumentParser

from torchsparse_lite.cli.supernet_command import SupernetCommand
from torchsparse_lite.cli.training import CONFIG, TrainedCommand, train
from torchsparse_lite.compat import save_weights
from torchsparse_lite.errors import needs_extra, refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.channels import sort_channels
from torchsparse_lite.nas.latency import network_latency
from torchsparse_lite.nas.spaces.pruning import options_of, pruning_of
from torchsparse_lite.nas.supernet import Supernet
from torchsparse_lite.whole_file import write_whole

__all__ = ["Derive", "Prune"]

_MEASURED = "measured.json"
_OF_SUPERNETS = ("phases", "subnets", "sandwich", "distill")


class Derive(SupernetCommand):
    name = "search derive"
    description = "train the network that was found, on the scans and by the settings of its run"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--arch", type=str | None, default=None, help="by default the best found"
        )
        parser.add_argument("--out", required=True, help="folder of its run")
        parser.add_argument("--epochs", type=int, default=6)

    def run(self) -> None:
        self.load_trained()
        supernet = self.model.supernet
        path = Path(self.config["arch"] or self.folder / "search" / "best.json")
        if not path.is_file():
            remedy = "Search first: tsl search run."
            refuse("search: --arch", "a file", path, remedy, error=FileNotFoundError)
        arch = Arch.from_json(path.read_text())
        supernet.space.validate(arch)
        supernet.set_active_subnet(arch)
        out = Path(self.config["out"])
        weights = out / "subnet.pt"
        network = supernet.get_active_subnet()
        recalibrate(network, ((points,) for points in self.calibration()))
        config = self._config_of(arch)
        how = ["--config", config, "--run", str(out), "--init", str(weights), "--resume"]
        if not self.trainer.is_global_zero:  # a further process of the training begins here, too
            train(how)
            return
        if not (out / CONFIG).is_file():  # or a run has begun with what is there
            save_weights(network, weights)
        ms = network_latency(network, self.scan(), self.setting)
        told = {"latency_ms": ms, **self.setting.describe(), "threads": torch.get_num_threads()}
        train(how)
        write_whole(self.name, out / _MEASURED, (json.dumps(told, indent=2) + "\n").encode())
        print(f"latency of the network, fused, on one scan: {ms:.1f} ms, see {out / _MEASURED}")

    def _config_of(self, arch: Arch) -> str:
        """Of its training: as the supernet's, with the network in its place."""
        config = self.own_config()
        given = config["model"]["network"]
        config["model"] = {k: v for k, v in config["model"].items() if k not in _OF_SUPERNETS}
        config["model"]["network"] = {
            "class_path": "torchsparse_lite.nas.derived",
            "init_args": {"space": given["init_args"]["space"], "arch": arch.to_json()},
            "dict_kwargs": self.model.supernet.options,
        }
        config["trainer"]["max_epochs"] = self.config["epochs"]
        return json.dumps(config)


class Prune(TrainedCommand):
    name = "search prune"
    description = "make a trained network a supernet of the smaller ones inside it"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--out", required=True, help="folder of the supernet's run")
        parser.add_argument("--quantum", type=int, default=8, help="of channels")
        parser.add_argument("--least", type=float, default=0.2, help="share of channels that stays")

    def run(self) -> None:
        out = Path(self.config["out"])
        weights = out / "checkpoints" / "last.ckpt"
        if (out / CONFIG).is_file() or weights.is_file():
            remedy = "Give another --out."
            refuse("search: --out", "the folder of a new run", f"{out}, of another", remedy)
        self.load_trained()
        network = self.model.network
        space = pruning_of(network, quantum=self.config["quantum"], least=self.config["least"])
        sort_channels(network)
        options = options_of(network)
        supernet = Supernet({"kind": "pruning", **space}, **options)
        supernet.load_largest(network)
        config = self.own_config()
        config["model"]["network"] = {
            "class_path": "torchsparse_lite.nas.Supernet",
            "init_args": {"space": {"kind": "pruning", **json.loads(json.dumps(space))}},
            "dict_kwargs": options,
        }
        save_weights(supernet, weights)
        text = needs_extra("tsl search", "yaml", "search").safe_dump(config, sort_keys=False)
        write_whole(self.name, out / CONFIG, text.encode())
        print(f"written to {out}; go on with: tsl search profile --run {out}")
