# SPDX-License-Identifier: MIT
"""``tsl search run``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fcntl import LOCK_EX, flock
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import LightningArgumentParser

from torchsparse_lite.cli.progress import bar
from torchsparse_lite.cli.supernet_command import TABLE, SupernetCommand
from torchsparse_lite.errors import needs_extra, refuse
from torchsparse_lite.host_memory import keep_host_memory
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

__all__ = ["RunSearch", "alone", "first_within"]


class _Limit(NamedTuple):
    """What candidates may cost.

    Attributes:
        score: of a candidate, by name.
        name: of it, with its unit.
        most: of it.
        tag: for names of files.
    """

    score: str
    name: str
    most: float
    tag: str


class RunSearch(SupernetCommand):
    name = "search run"
    description = "search under a limit of latency or of multiplications"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        add = parser.add_argument
        add("--limit_ms", type=float | None, default=None, help="latency at most")
        add("--limit_gmacs", type=float | None, default=None, help="multiplications at most")
        add("--algorithm", default="spos", help=f"{', '.join(EVOLUTIONS)}, nsga2")
        add("--trials", type=int, default=200)
        help_ = "of the algorithm; by default the paper's, or less for ten generations"
        add("--population", type=int | None, default=None, help=help_)
        add("--seed", type=int, default=0)
        add("--storage", type=str | None, default=None, help="URL of an RDB")
        help_ = "validation scans that a trial is scored on, evenly spread"
        add("--scans", type=int, default=24, help=help_)
        help_ = "search for the machine that the latency table is from, whatever this one is"
        add("--anywhere", action="store_true", help=help_)
        help_ = "time every candidate here; the table only guides which ones are tried"
        add("--measured", action="store_true", help=help_)

    def run(self) -> None:
        needs_extra("tsl search run", "matplotlib", "viz")  # before the hours, not after
        self._limit = self._limit_asked()
        validation = self.validation(self.config["scans"])
        self.load_trained()
        keep_host_memory()
        anywhere, is_measured = self.config["anywhere"], self.config["measured"]
        self._table = LatencyTable.load(self.folder / TABLE, self.setting, anywhere=anywhere)
        supernet, scan = self.model.supernet, validation[0][0]
        self._table.check_scan(scan)
        self._costs = SubnetCosts(
            supernet, self._table, scan, self.setting, is_measured=is_measured
        )
        classes = len(self.model.classes)
        self._scores = SubnetScores(supernet, self.calibration(), validation, classes)
        algorithms = dict.fromkeys((self.config["algorithm"], "random"))
        seen = {algorithm: self._search(algorithm) for algorithm in algorithms}
        results = {name: self._within(result) for name, result in seen.items()}
        with self._alone():
            chosen = {name: self._chosen(result) for name, result in results.items()}
            self._keep(results, chosen)
        self._tell(chosen)

    def _limit_asked(self) -> _Limit:
        ms, gmacs = self.config["limit_ms"], self.config["limit_gmacs"]
        if (ms is None) == (gmacs is None):
            rule, actual = "given alone", "neither" if ms is None else "both"
            remedy = "Limit latency or multiplications."
            refuse("search: --limit_ms or --limit_gmacs", rule, actual, remedy)
        if self.config["anywhere"] and self.config["measured"]:
            remedy = "What is timed here says nothing of another machine's limit."
            refuse("search: --measured", "without --anywhere", "both", remedy)
        if ms is None:
            return _Limit("gmacs", "GMACs", gmacs, f"{gmacs:g}gmacs")
        return _Limit("latency_ms", "latency in ms", ms, f"{ms:g}ms")

    def _search(self, algorithm: str) -> SearchResult:
        limit, seed, trials = self._limit, self.config["seed"], self.config["trials"]
        folder = self.folder / "search"
        folder.mkdir(exist_ok=True)
        objectives = {"miou": True, limit.score: False}
        if algorithm == "nsga2":
            objectives["memory_mb"] = False
        cost = self._costs.latency if limit.score == "latency_ms" else self._costs.gmacs
        constraint = Constraint(limit.name, limit.most, cost, limit.score)
        with _Told(algorithm, trials) as told:
            return run_search(
                self.model.supernet.space,
                self._evaluate,
                objectives,
                trials=trials,
                algorithm=algorithm,
                population=self.config["population"],
                constraint=constraint,
                seed=seed,
                storage=self.config["storage"] or f"sqlite:///{folder / 'search.db'}",
                name=f"{algorithm}-{seed}-{limit.tag}",
                about=self._about,
                progress=told,
            )

    def _evaluate(self, arch: Arch) -> dict[str, float]:
        # What another process scores meanwhile slows what is timed here, too.
        with self._alone() if self.config["measured"] else nullcontext():
            scores = self._scores.scores(self._scores.network(arch))
            accuracy = {"miou": float(scores.mean), "accuracy": float(scores.accuracy)}
            return {**accuracy, **self._costs.of(arch)}

    def _within(self, result: SearchResult) -> SearchResult:
        """What keeps to the limit; all where nothing does, for then the fastest is told."""
        score, most = self._limit.score, self._limit.most
        is_met = any(found.scores[score] <= most for found in result.trials)
        return result.within(score, most) if is_met else result

    def _alone(self) -> AbstractContextManager[None]:
        """While no other process of this search is there."""
        return alone(self.folder / "search" / "timing.lock")

    @cached_property
    def _about(self) -> dict[str, Any]:
        """What decides the scores besides the search itself."""
        weights = hashlib.sha256()
        for name, tensor in self.model.supernet.state_dict().items():
            weights.update(name.encode() + tensor.cpu().numpy().tobytes())
        data = self.config["data"]
        kept = ("dataset", "root", "train", "val", "features", "batch_size", "seed")
        return {
            "weights": weights.hexdigest()[:16],
            "latency table": hashlib.sha256((self.folder / TABLE).read_bytes()).hexdigest()[:16],
            "data": json.loads(json.dumps({key: data[key] for key in kept}, default=str)),
            **{key: self.config[key] for key in ("scans", "calibration", "measured")},
        }

    def _chosen(self, result: SearchResult) -> dict[str, Any]:
        """The best that keeps to the limit when it is timed: tables underestimate some, too."""
        once = {found.arch: found for found in result.trials}.values()
        best = sorted(once, key=lambda found: found.scores["miou"], reverse=True)
        if self.config["anywhere"] or self._limit.score != "latency_ms":
            return _described(best[0])
        timed = bar(best, "timing, best first", len(best))
        found, ms = first_within(timed, self._costs.measured, self._limit.most)
        return {**_described(found), "measured_ms": ms}

    @property
    def _path(self) -> Path:
        """Of the result."""
        name = f"{self.config['algorithm']}-{self.config['seed']}-{self._limit.tag}.json"
        return self.folder / "search" / name

    def _keep(self, results: dict[str, SearchResult], chosen: dict[str, dict[str, Any]]) -> None:
        """All trials and their picture; the best of each search in a file of its own."""
        result = {
            "space": self.model.supernet.space.name,
            "limit_ms": self.config["limit_ms"],
            "limit_gmacs": self.config["limit_gmacs"],
            "seed": self.config["seed"],
            "table": {"machine": dict(self._table.machine), "errors": dict(self._table.errors)},
            "machine": {**self.setting.describe(), "threads": torch.get_num_threads()},
            "searches": {
                name: {
                    "best": chosen[name],
                    "pareto": [_described(found) for found in result.pareto],
                    "trials": [_described(found) for found in result.trials],
                }
                for name, result in results.items()
            },
        }
        write_whole(self.name, self._path, (json.dumps(result, indent=1) + "\n").encode())
        for name, best in chosen.items():
            own = "best.json" if name == self.config["algorithm"] else f"best-{name}.json"
            text = json.dumps(best["arch"]) + "\n"
            write_whole(self.name, self._path.with_name(own), text.encode())
        how = "measured " if self.config["measured"] else "predicted "
        label = how + self._limit.name if self._limit.score == "latency_ms" else self._limit.name
        picture = self._path.with_suffix(".png")
        draw_search(results, picture, cost=self._limit.score, label=label, limit=self._limit.most)

    def _tell(self, chosen: dict[str, dict[str, Any]]) -> None:
        for name, best in chosen.items():
            measured = f", measured {best['measured_ms']:.1f} ms" if "measured_ms" in best else ""
            print(
                f"{name:10s} mean IoU {best['miou']:.4f} at {best['latency_ms']:.1f} ms{measured}, "
                f"{best['gmacs']:.2f} GMACs, {best['parameters'] / 1e6:.2f} M parameters"
            )
            if best.get("measured_ms", 0) > self._limit.most:
                limit = f"{self._limit.most:g} ms"
                print(f"{name:10s} none keeps to {limit} when it is timed; this is the fastest")
        best_path = self._path.with_name("best.json")
        print(f"written to {self._path}, its picture beside it; the best to {best_path}")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While no other process does the same: what is timed at once is timed wrong.

    Args:
        path: of a file that stands for it.
    """
    with path.open("w") as file:
        flock(file, LOCK_EX)  # until the file is closed
        yield


def first_within(
    ranked: Iterable[Found], measure: Callable[[Arch], float], most: float
) -> tuple[Found, float]:
    """The first that costs no more than the most, or the cheapest where none does; and its cost.

    Args:
        ranked: one or more, each measured until one is found.
        measure: the cost of an architecture.
        most: the limit.
    """
    costs: list[tuple[float, Found]] = []
    for found in ranked:
        costs.append((measure(found.arch), found))
        if costs[-1][0] <= most:
            return found, costs[-1][0]
    cost, cheapest = min(costs, key=itemgetter(0))
    return cheapest, cost


def _described(found: Found) -> dict[str, Any]:
    return {"arch": json.loads(found.arch.to_json()), **found.scores}


class _Told:
    """A bar that says the best so far."""

    def __init__(self, text: str, trials: int) -> None:
        self._bar = needs_extra("tsl search", "tqdm", "search").tqdm(desc=text, total=trials)
        self._best = -math.inf

    def __enter__(self) -> _Told:
        return self

    def __call__(self, number: int, count: int, found: Found) -> None:
        self._best = max(self._best, found.scores["miou"])
        self._bar.update(number - self._bar.n)
        self._bar.set_postfix(best=f"{self._best:.4f}")

    def __exit__(self, *_: object) -> None:
        self._bar.close()
