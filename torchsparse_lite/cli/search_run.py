# SPDX-License-Identifier: MIT
"""``tsl search run``."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser

from torchsparse_lite.cli.supernet_command import TABLE, SupernetCommand
from torchsparse_lite.errors import needs_extra
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.machine import describe_machine
from torchsparse_lite.nas.algorithms import EVOLUTIONS
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.candidates import SubnetCosts
from torchsparse_lite.nas.constraint import Constraint
from torchsparse_lite.nas.latency import LatencyTable
from torchsparse_lite.nas.plot import draw_search
from torchsparse_lite.nas.search import Found, SearchResult
from torchsparse_lite.nas.search import search as run_search
from torchsparse_lite.train.subnets import SubnetScores
from torchsparse_lite.whole_file import write_whole

__all__ = ["RunSearch"]

_CONFIRMED = 10


class RunSearch(SupernetCommand):
    name = "search run"
    description = "search under a limit of latency"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--limit_ms", type=float, required=True, help="latency at most")
        parser.add_argument("--algorithm", default="spos", help=f"{', '.join(EVOLUTIONS)}, nsga2")
        parser.add_argument("--trials", type=int, default=200)
        help_ = "of an evolution; by default the paper's, or less for ten generations"
        parser.add_argument("--population", type=int | None, default=None, help=help_)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--storage", type=str | None, default=None, help="URL of an RDB")
        help_ = "validation scans that a trial is scored on, evenly spread"
        parser.add_argument("--scans", type=int, default=24, help=help_)
        help_ = "search for the machine that the latency table is from, whatever this one is"
        parser.add_argument("--anywhere", action="store_true", help=help_)
        help_ = "time every candidate here; the table only guides which ones are tried"
        parser.add_argument("--measured", action="store_true", help=help_)

    def run(self) -> None:
        needs_extra("tsl search run", "matplotlib", "viz")  # before the hours, not after
        validation = self.validation(self.config["scans"])
        self.load_trained()
        keep_host_memory()
        self._table = LatencyTable.load(self.folder / TABLE, anywhere=self.config["anywhere"])
        supernet = self.model.supernet
        self._costs = SubnetCosts(
            supernet, self._table, validation[0][0], is_measured=self.config["measured"]
        )
        classes = len(self.model.classes)
        self._scores = SubnetScores(supernet, self.calibration(), validation, classes)
        algorithms = dict.fromkeys((self.config["algorithm"], "random"))
        results = {algorithm: self._search(algorithm) for algorithm in algorithms}
        chosen = {algorithm: self._chosen(result) for algorithm, result in results.items()}
        self._write(results, chosen)

    def _search(self, algorithm: str) -> SearchResult:
        limit, seed, trials = (self.config[key] for key in ("limit_ms", "seed", "trials"))
        folder = self.folder / "search"
        folder.mkdir(exist_ok=True)
        objectives = {"miou": True, "latency_ms": False}
        if algorithm == "nsga2":
            objectives["memory_mb"] = False
        with _Told(algorithm, trials) as told:
            found = run_search(
                self.model.supernet.space,
                self._evaluate,
                objectives,
                trials=trials,
                algorithm=algorithm,
                population=self.config["population"],
                constraint=Constraint("latency in ms", limit, self._costs.latency),
                seed=seed,
                storage=self.config["storage"] or f"sqlite:///{folder / 'search.db'}",
                name=f"{algorithm}-{seed}-{limit:g}ms",
                about=self._about,
                progress=told,
            )
        return found.within("latency_ms", limit)

    def _evaluate(self, arch: Arch) -> dict[str, float]:
        network = self._scores.network(arch)
        scores = self._scores.scores(network)
        accuracy = {"miou": float(scores.mean), "accuracy": float(scores.accuracy)}
        return {**accuracy, **self._costs.of(arch, network)}

    @cached_property
    def _about(self) -> dict[str, Any]:
        """What decides the scores besides the search itself."""
        weights = hashlib.sha256()
        for name, tensor in self.model.supernet.state_dict().items():
            weights.update(name.encode() + tensor.numpy().tobytes())
        data = self.config["data"]
        kept = ("dataset", "root", "train", "val", "features", "seed")
        return {
            "weights": weights.hexdigest()[:16],
            "latency table": hashlib.sha256((self.folder / TABLE).read_bytes()).hexdigest()[:16],
            "data": json.loads(json.dumps({key: data[key] for key in kept}, default=str)),
            **{key: self.config[key] for key in ("scans", "calibration", "measured")},
        }

    def _chosen(self, result: SearchResult) -> dict[str, Any]:
        """The best that keeps to the limit when it is timed: tables underestimate some, too."""
        once = {found.arch: found for found in result.trials}.values()
        best = sorted(once, key=lambda found: found.scores["miou"], reverse=True)[:_CONFIRMED]
        if self.config["anywhere"]:
            return _described(best[0])
        timed: list[tuple[float, Found]] = []
        for found in best:
            timed.append((self._costs.measured(found.arch), found))
            if timed[-1][0] <= self.config["limit_ms"]:
                break
        else:
            timed.sort(key=itemgetter(0), reverse=True)
        ms, found = timed[-1]
        return {**_described(found), "measured_ms": ms}

    def _write(self, results: dict[str, SearchResult], chosen: dict[str, dict[str, Any]]) -> None:
        folder, limit, seed = self.folder / "search", self.config["limit_ms"], self.config["seed"]
        about = {
            "space": self.model.supernet.space.name,
            "limit_ms": limit,
            "seed": seed,
            "table": {"machine": dict(self._table.machine), "errors": dict(self._table.errors)},
            "machine": {**describe_machine(), "threads": torch.get_num_threads()},
        }
        searches = {
            name: {
                "best": chosen[name],
                "pareto": [_described(found) for found in result.pareto],
                "trials": [_described(found) for found in result.trials],
            }
            for name, result in results.items()
        }
        path = folder / f"{self.config['algorithm']}-{seed}-{limit:g}ms.json"
        text = json.dumps({**about, "searches": searches}, indent=1) + "\n"
        write_whole(self.name, path, text.encode())
        for name, best in chosen.items():
            is_asked = name == self.config["algorithm"]
            own = folder / ("best.json" if is_asked else f"best-{name}.json")
            write_whole(self.name, own, (json.dumps(best["arch"]) + "\n").encode())
            measured = f", measured {best['measured_ms']:.1f} ms" if "measured_ms" in best else ""
            print(
                f"{name:10s} mean IoU {best['miou']:.4f} at {best['latency_ms']:.1f} ms{measured}"
            )
            if best.get("measured_ms", 0) > limit:
                print(
                    f"{name:10s} none of its best {_CONFIRMED} keeps to the limit when it is timed"
                )
        is_measured = self.config["measured"]
        draw_search(results, path.with_suffix(".png"), limit_ms=limit, is_measured=is_measured)
        print(f"written to {path}, its picture beside it; the best to {folder / 'best.json'}")


def _described(found: Found) -> dict[str, Any]:
    return {"arch": json.loads(found.arch.to_json()), **found.scores}


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
