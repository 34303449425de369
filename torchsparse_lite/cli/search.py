# SPDX-License-Identifier: MIT
"""``tsl search``: a supernet, a latency table, the search, and the network that it finds."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.cli import LightningArgumentParser

from torchsparse_lite.cli.training import CONFIG, TrainCommand, TrainedCommand, quiet, train
from torchsparse_lite.compat import save_weights
from torchsparse_lite.errors import needs_extra, refuse
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.machine import describe_machine
from torchsparse_lite.nas.algorithms import EVOLUTIONS
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.candidates import SubnetCosts
from torchsparse_lite.nas.channels import sort_channels
from torchsparse_lite.nas.constraint import Constraint
from torchsparse_lite.nas.latency import LatencyTable, network_latency, profile_latency
from torchsparse_lite.nas.plot import draw_search
from torchsparse_lite.nas.search import Found, SearchResult
from torchsparse_lite.nas.search import search as run_search
from torchsparse_lite.nas.spaces.pruning import options_of, pruning_of
from torchsparse_lite.nas.supernet import Supernet
from torchsparse_lite.points import PointTensor
from torchsparse_lite.train.module import Segmentation
from torchsparse_lite.train.subnets import SubnetScores, SupernetSegmentation
from torchsparse_lite.whole_file import write_whole

__all__ = ["search"]

_TABLE = "latency.json"
_MEASURED = "measured.json"


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


class _OfSupernet(TrainedCommand):
    """What is done with a trained supernet."""

    trains: ClassVar[type[Segmentation]] = SupernetSegmentation
    model: SupernetSegmentation

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        help_ = "training scans that norms are recalibrated with"
        parser.add_argument("--calibration", type=int, default=8, help=help_)

    def load_trained(self) -> None:
        """The weights asked for; by default the last: the best are those of the largest subnet."""
        self.load(self.config["checkpoint"] or self.folder / "checkpoints" / "last.ckpt")

    def scan(self) -> PointTensor:
        """The points of the first validation scan."""
        points: PointTensor = next(iter(self.datamodule.val_dataloader()))["points"]
        return points

    def calibration(self) -> list[PointTensor]:
        """Training scans as they are, for the statistics of norms."""
        self.datamodule.transforms = self.datamodule.mix = ()
        batches = iter(self.datamodule.train_dataloader())
        return [batch["points"] for batch in islice(batches, self.config["calibration"])]


class _Profile(_OfSupernet):
    name = "search profile"
    description = "measure how long the parts of its networks take on this machine"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--check", type=int, default=30, help="networks to check the table with"
        )

    def run(self) -> None:
        keep_host_memory()
        supernet = self.model.supernet
        scan = self.scan()
        table = profile_latency(supernet.space, scan, progress=_bar, **supernet.options)
        rng = np.random.default_rng(1)
        errors = []
        for _ in _bar(range(self.config["check"]), "check", self.config["check"]):
            network = supernet.space.build(supernet.space.sample(rng), **supernet.options)
            measured = network_latency(network, scan)
            errors.append(abs(table.predict(network) - measured) / measured)
        if errors:
            middle, most = float(np.median(errors)), float(max(errors))
            table = replace(table, errors={"median": middle, "largest": most})
            print(f"error over {len(errors)} networks: median {middle:.1%}, largest {most:.1%}")
        table.save(self.folder / _TABLE)
        print(f"written to {self.folder / _TABLE}")


class _Run(_OfSupernet):
    name = "search run"
    description = "search under a limit of latency"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--limit_ms", type=float, required=True, help="latency at most")
        parser.add_argument("--algorithm", default="spos", help=f"{', '.join(EVOLUTIONS)}, nsga2")
        parser.add_argument("--trials", type=int, default=200)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--storage", type=str | None, default=None, help="URL of an RDB")
        help_ = "validation scans that a trial is scored on, evenly spread"
        parser.add_argument("--scans", type=int, default=24, help=help_)
        help_ = "search for the machine that the latency table is from, whatever this one is"
        parser.add_argument("--anywhere", action="store_true", help=help_)
        help_ = "time every candidate here; the table only guides which ones are tried"
        parser.add_argument("--measured", action="store_true", help=help_)

    def run(self) -> None:
        self.load_trained()
        keep_host_memory()
        algorithm, limit = self.config["algorithm"], self.config["limit_ms"]
        costs = SubnetCosts(
            self.model.supernet,
            LatencyTable.load(self.folder / _TABLE, anywhere=self.config["anywhere"]),
            self.scan(),
            is_measured=self.config["measured"],
        )
        scores = self._scores()

        def evaluate(arch: Arch) -> dict[str, float]:
            network = scores.network(arch)
            of = scores.scores(network)
            accuracy = {"miou": float(of.mean), "accuracy": float(of.accuracy)}
            return {**accuracy, **costs.of(arch, network)}

        folder = self.folder / "search"
        folder.mkdir(exist_ok=True)
        storage = self.config["storage"] or f"sqlite:///{folder / 'search.db'}"
        seed, trials = self.config["seed"], self.config["trials"]
        objectives = {"miou": True, "latency_ms": False}
        if algorithm == "nsga2":
            objectives["memory_mb"] = False
        results = {}
        for name in dict.fromkeys((algorithm, "random")):
            with _Told(name, trials) as told:
                found = run_search(
                    self.model.supernet.space,
                    evaluate,
                    objectives,
                    trials=trials,
                    algorithm=name,
                    constraint=Constraint("latency in ms", limit, costs.latency),
                    seed=seed,
                    storage=storage,
                    name=f"{name}-{seed}-{limit:g}ms",
                    about=self._about(),
                    progress=told,
                )
            results[name] = found.within("latency_ms", limit)
        self._write(folder, results)

    def _about(self) -> dict[str, str]:
        """What decides the scores besides the search itself."""
        weights = self.model.supernet.state_dict()
        digest = hashlib.sha256()
        for name, tensor in weights.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return {
            "weights": digest.hexdigest()[:16],
            "latency table": hashlib.sha256((self.folder / _TABLE).read_bytes()).hexdigest()[:16],
            "validation scans": json.dumps(self.config["data"]["val"], default=str),
            "number of scans": str(self.config["scans"]),
            "measured": str(self.config["measured"]),
        }

    def _scores(self) -> SubnetScores:
        loader = self.datamodule.val_dataloader()
        samples, collate = loader.dataset, loader.collate_fn
        count = min(self.config["scans"], len(samples))
        rows = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
        batches = (collate([samples[row]]) for row in rows)
        validation = [(batch["points"], batch["labels"]) for batch in batches]
        classes = len(self.model.classes)
        return SubnetScores(self.model.supernet, self.calibration(), validation, classes)

    def _write(self, folder: Path, results: dict[str, SearchResult]) -> None:
        content = {
            name: {
                "best": _described(result.best),
                "pareto": [_described(found) for found in result.pareto],
                "trials": [_described(found) for found in result.trials],
            }
            for name, result in results.items()
        }
        path = folder / f"result-{self.config['seed']}-{self.config['limit_ms']:g}ms.json"
        write_whole(self.name, path, (json.dumps(content, indent=1) + "\n").encode())
        for name, result in results.items():
            text = result.best.arch.to_json() + "\n"
            is_asked = name == self.config["algorithm"]
            own = folder / ("best.json" if is_asked else f"best-{name}.json")
            write_whole(self.name, own, text.encode())
        draw_search(results, path.with_suffix(".png"), limit_ms=self.config["limit_ms"])
        for name, result in results.items():
            scores = result.best.scores
            print(f"{name:10s} mean IoU {scores['miou']:.4f} at {scores['latency_ms']:.1f} ms")
        print(f"written to {path}, its picture beside it; the best to {folder / 'best.json'}")


class _Derive(_OfSupernet):
    name = "search derive"
    description = "train the network that was found"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--arch", type=str | None, default=None, help="by default the best found"
        )
        parser.add_argument("--out", required=True, help="folder of its run")
        parser.add_argument("--recipe", default="small", help="of its training")
        parser.add_argument("--learning_rate", type=float, default=0.001)
        parser.add_argument("--epochs", type=int, default=2)

    def run(self) -> None:
        self.load_trained()
        supernet = self.model.supernet
        path = Path(self.config["arch"] or self.folder / "search" / "best.json")
        if not path.is_file():
            remedy = "Search first: tsl search run."
            refuse("search derive: --arch", "a file", path, remedy, error=FileNotFoundError)
        arch = Arch.from_json(path.read_text())
        supernet.space.validate(arch)
        supernet.set_active_subnet(arch)
        out = Path(self.config["out"])
        weights = out / "subnet.pt"
        network = supernet.get_active_subnet()
        recalibrate(network, ((points,) for points in self.calibration()))
        save_weights(network, weights)
        given = json.loads(json.dumps(self.config["model"]["network"].as_dict()))
        described = {
            "class_path": "torchsparse_lite.nas.derived",
            "init_args": {"space": given["init_args"]["space"], "arch": arch.to_json()},
            "dict_kwargs": supernet.options,
        }
        data = self.config["data"]
        train(
            [
                *("--config", self.config["recipe"], "--run", str(out), "--init", str(weights)),
                *("--model.network", json.dumps(described), "--data.root", str(data["root"])),
                *(f"--data.{key}={json.dumps(data[key])}" for key in ("train", "val", "features")),
                *("--data.dataset", data["dataset"]),
                f"--model.learning_rate={self.config['learning_rate']}",
                f"--trainer.max_epochs={self.config['epochs']}",
                "--resume",
            ]
        )
        ms = network_latency(network, self.scan())
        told = {"latency_ms": ms, **describe_machine(), "threads": torch.get_num_threads()}
        write_whole(self.name, out / _MEASURED, (json.dumps(told, indent=2) + "\n").encode())
        print(f"latency of the network, fused, on one scan: {ms:.1f} ms, see {out / _MEASURED}")


class _Prune(TrainedCommand):
    name = "search prune"
    description = "make a trained network a supernet of the smaller ones inside it"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--out", required=True, help="folder of the supernet's run")
        parser.add_argument("--quantum", type=int, default=8, help="of channels")
        parser.add_argument("--least", type=float, default=0.2, help="share of channels that stays")

    def run(self) -> None:
        self.load_trained()
        network = self.model.network
        space = pruning_of(network, quantum=self.config["quantum"], least=self.config["least"])
        sort_channels(network)
        options = options_of(network)
        supernet = Supernet({"kind": "pruning", **space}, **options)
        supernet.load_largest(network)
        out = Path(self.config["out"])
        yaml = needs_extra("tsl search prune", "yaml", "search")
        config = yaml.safe_load((self.folder / CONFIG).read_text())
        config["model"]["network"] = {
            "class_path": "torchsparse_lite.nas.Supernet",
            "init_args": {"space": {"kind": "pruning", **json.loads(json.dumps(space))}},
            "dict_kwargs": options,
        }
        config.pop("init", None)
        write_whole(self.name, out / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
        save_weights(supernet, out / "checkpoints" / "last.ckpt")
        print(f"written to {out}; go on with: tsl search profile --run {out}")


_STEPS: dict[str, Any] = {
    "train": _Train,
    "profile": _Profile,
    "run": _Run,
    "derive": _Derive,
    "prune": _Prune,
}


def _described(found: Found) -> dict[str, Any]:
    return {"arch": json.loads(found.arch.to_json()), **found.scores}


def _bar(items: Iterable[Any], text: str, count: int) -> Iterable[Any]:
    bar: Iterable[Any] = needs_extra("tsl search", "tqdm", "search").tqdm(items, text, total=count)
    return bar


class _Told:
    """A bar that says the best so far."""

    def __init__(self, text: str, trials: int) -> None:
        self._bar = needs_extra("tsl search", "tqdm", "search").tqdm(desc=text, total=trials)
        self._best = 0.0

    def __enter__(self) -> _Told:
        return self

    def __call__(self, number: int, count: int, found: Found) -> None:
        self._best = max(self._best, found.scores["miou"])
        self._bar.update(number - self._bar.n)
        self._bar.set_postfix(best=f"{self._best:.4f}")

    def __exit__(self, *_: object) -> None:
        self._bar.close()
