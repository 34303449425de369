# SPDX-License-Identifier: MIT
"""From streets to trained networks under a limit of latency: ``python -m benchmarks.search``.

streets    for each seed: a supernet on simulated streets, a search under 60 % of the latency of
           SPVCNN cr 0.5, the network it finds and the best of a random search, both trained on
           three times, with other seeds: their scores are means.
           Beside them SPVCNN, narrowed to the measured latency of the found network, trained for
           as many steps as supernet and found network together. Tested on unseen streets.
table      what the latency table of each seed is off by, over random networks
nothing    the network of the first seed from nothing, for as many steps as the narrowed one: what
           the weights of the supernet are good for
real       the network of the first seed and the narrowed SPVCNN, both trained on the real frames
           of sequence 00, from nothing and from what they learned on streets, tested on 08/000000
ranking    Kendall's tau between the scores of subnets in the first supernet and trained alone
pruning    channels and taps of a trained SPVCNN under 60 % of its own latency, see
           benchmarks/pruning.py

The commands are printed. What is there already is not made again, and what was measured of other
seeds at this commit stays in the result: seeds can be run one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torchmetrics.functional import kendall_rank_corrcoef

import torchsparse_lite as tsl
from benchmarks import pruning
from benchmarks.real_scans import frames_of_sequence_0, unseen_frame
from benchmarks.run import environment, write_result
from benchmarks.streets import (
    CHOOSE,
    DERIVED,
    DERIVED_EPOCHS,
    FEW_SCANS,
    LIMIT,
    UNSEEN,
    first_scan,
    latencies,
    narrowed,
    of_width,
    scans_and_seeds,
    seeded,
    simulate,
    width_as_fast_as,
)
from benchmarks.training import find_data, measured_once, scores_of, timed, trained
from torchsparse_lite import PointTensor, nas

_ROOT = Path(__file__).resolve().parent
_TRIALS = 250
_SUPERNET_EPOCHS = 8
_DERIVED_TIMES = 3
_ALONE_EPOCHS, _ALONE = 3, 12
_REAL_EPOCHS, _REAL_RATE_AFTER_STREETS = 6, 0.002
_CHECKED = 30


def main(arguments: list[str] | None = None) -> None:
    """Run the tests that are asked for, and keep their scores."""
    parser = argparse.ArgumentParser("python -m benchmarks.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    tests = {
        "streets": _streets,
        "table": _table,
        "nothing": _nothing,
        "real": _real,
        "ranking": _ranking,
        "pruning": _pruning,
    }
    parser.add_argument("tests", nargs="*", default=list(tests))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=None, help="folder with semantickitti/")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="where networks go")
    parser.add_argument("--out", type=Path, default=_ROOT / "results", help="folder of the result")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.tests if name not in tests]
    if unknown:
        parser.error(f"tests are {', '.join(tests)}, got {', '.join(unknown)}")
    about = {**environment(), "keep_host_memory": tsl.keep_host_memory()}
    for name in options.tests:
        for some in tests[name](options):
            threads = torch.get_num_threads()
            rows = [{"test": name, "threads": threads, **row} for row in some]
            print("\n".join(map(_line, rows)), flush=True)
            write_result("search", about, rows, options.out)


def _line(row: dict[str, Any]) -> str:
    shown = {k: v for k, v in row.items() if k != "iou"}
    return "  ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items()
    )


def _streets(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Rows of each seed."""
    for seed in options.seeds:
        yield _Search(options.runs, seed).rows()


class _Search:
    """One search with all that belongs to it.

    Args:
        runs: folder of all runs.
        seed: of everything that is drawn.
    """

    def __init__(self, runs: Path, seed: int) -> None:
        self.runs = runs
        self.seed = seed
        self.streets = runs / "streets"
        self.supernet = runs / f"supernet-{seed}"
        found = self.supernet / "search"
        self.archs = {"found": found / "best.json", "random": found / "best-random.json"}

    def rows(self) -> list[dict[str, Any]]:
        """The networks that it leads to, each tested on unseen streets."""
        spent = self.train_supernet() + self.search()
        found, chance = (self.network(self.archs[kind]) for kind in ("found", "random"))
        networks = {"found": found, "random": chance, "narrow": narrowed(self.width)}
        trainings = {
            "found": self.derive("found"),
            "random": self.derive("random"),
            "narrow": self.train_as_long("narrow", *of_width(self.width)),
        }
        times = latencies({**networks, "cr 0.5": narrowed(0.5)}, self.scan)
        return [
            {
                "seed": self.seed,
                "network": kind,
                "limit_ms": self.limit_ms,
                "latency_ms": times[kind],
                "latency_vs_cr_0.5": times[kind] / times["cr 0.5"],
                "parameters": sum(p.numel() for p in networks[kind].parameters()),
                "miou_in_supernet": self.result()[kind]["best"]["miou"]
                if kind in self.archs
                else None,
                "minutes": round((seconds + (spent if kind in self.archs else 0)) / 60, 1),
                **_mean_scores(runs),
            }
            for kind, (runs, seconds) in trainings.items()
        ]

    @cached_property
    def scan(self) -> PointTensor:
        """On which latency is measured: the first that the search chooses by."""
        return first_scan(self.streets, CHOOSE[0])

    @cached_property
    def limit_ms(self) -> float:
        """Of the search."""

        def measure() -> float:
            whole = latencies({"cr 0.5": narrowed(0.5)}, self.scan)["cr 0.5"]
            return round(LIMIT * whole, 2)

        return measured_once(self.runs / f"limit_ms-{self.seed}.json", measure)

    @cached_property
    def width(self) -> float:
        """Of the narrowed SPVCNN."""
        found = self.network(self.archs["found"])
        path = self.runs / f"width-{self.seed}.json"
        return measured_once(path, lambda: width_as_fast_as(found, self.scan))

    def train_supernet(self) -> float:
        """And measure its table; seconds of both."""
        simulate(self.runs)
        how = ("--config", "supernet", *scans_and_seeds(self.streets, self.seed))
        epochs = ("--trainer.max_epochs", _SUPERNET_EPOCHS)
        seconds = trained(self.supernet, "search", "train", *how, *epochs)
        table = self.supernet / "latency.json"
        return seconds + timed(table, "search", "profile", "--run", self.supernet)

    def search(self) -> float:
        """Seconds of the search and of the random one."""
        how = ("--limit_ms", self.limit_ms, "--trials", _TRIALS, "--seed", self.seed)
        best = self.archs["found"]
        return timed(best, "search", "run", "--run", self.supernet, *how, *FEW_SCANS)

    def derive(self, kind: str) -> tuple[list[Path], float]:
        """Train the subnet on, several times; the runs, and seconds of the first.

        Networks that are found in two ways can be less apart than one training is from the next.
        """
        runs, seconds = [], []
        for number in range(_DERIVED_TIMES):
            again = seeded(self.seed + 100 * number) if number else ()
            run = self.runs / "-".join([kind, str(self.seed), *([str(number)] * bool(number))])
            where = ("--run", self.supernet, "--arch", self.archs[kind], "--out", run)
            made = run / "measured.json"
            seconds.append(timed(made, "search", "derive", *where, *DERIVED, *again))
            runs.append(run)
        return runs, seconds[0]

    def train_as_long(self, name: str, *network: object) -> tuple[list[Path], float]:
        """Train from nothing for as many steps as supernet and found network together."""
        run = self.runs / f"{name}-{self.seed}"
        epochs = ("--trainer.max_epochs", _SUPERNET_EPOCHS + DERIVED_EPOCHS)
        return [run], self.train(run, *network, *epochs)

    def train(self, run: Path, *network: object) -> float:
        """Seconds of a network from nothing."""
        how = ("--config", "small", *scans_and_seeds(self.streets, self.seed))
        return trained(run, "train", *how, *network)

    def network(self, arch: Path) -> nn.Module:
        """With weights of its own."""
        config = self._config()
        space = nas.search_space(**config["init_args"]["space"])
        return space.build(nas.Arch.from_json(arch.read_text()), **config["dict_kwargs"])

    def described(self, arch: str) -> str:
        """The network, as a config names it."""
        config = self._config()
        given = {"space": config["init_args"]["space"], "arch": arch}
        return json.dumps(
            {**config, "class_path": "torchsparse_lite.nas.derived", "init_args": given}
        )

    def result(self) -> dict[str, Any]:
        """What the search saw, and the random one."""
        path = self.supernet / "search" / f"spos-{self.seed}-{self.limit_ms:g}ms.json"
        searches = json.loads(path.read_text())["searches"]
        return {"found": searches["spos"], "random": searches["random"]}

    def _config(self) -> dict[str, Any]:
        text = (self.supernet / "config.yaml").read_text()
        config: dict[str, Any] = yaml.safe_load(text)["model"]["network"]
        return config


def _mean_scores(runs: list[Path]) -> dict[str, Any]:
    """On unseen streets, the mean of several trainings of a network, and each of them."""
    scores = [scores_of(run, [{"sequences": UNSEEN}]) for run in runs]
    mean = {key: statistics.fmean(s[key] for s in scores) for key in ("miou", "accuracy")}
    return {**mean, "mious": [s["miou"] for s in scores]}


def _table(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Of a supernet that is not trained: weights do not matter to latency."""
    simulate(options.runs)
    for seed in options.seeds:
        run = options.runs / f"table-{seed}"
        how = ("--config", "supernet", *scans_and_seeds(options.runs / "streets", seed))
        once = [
            word for part in ("train", "val") for word in (f"--trainer.limit_{part}_batches", 1)
        ]
        trained(run, "search", "train", *how, "--trainer.max_epochs", 1, *once)
        table = run / "latency.json"
        seconds = timed(table, "search", "profile", "--run", run, "--check", _CHECKED)
        errors = json.loads(table.read_text())["errors"]
        about = {"seed": seed, "networks": _CHECKED, "minutes": round(seconds / 60, 1)}
        yield [{**about, "median_error": errors["median"], "largest_error": errors["largest"]}]


def _nothing(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    search = _Search(options.runs, options.seeds[0])
    search.train_supernet()
    search.search()
    text = search.archs["found"].read_text()
    network = ("--model.network", search.described(text))
    runs, seconds = search.train_as_long("found-from-nothing", *network)
    minutes = round(seconds / 60, 1)
    yield [{"seed": search.seed, "network": "found", "minutes": minutes, **_mean_scores(runs)}]


def _real(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    data, seed = options.data or find_data(), options.seeds[0]
    search = _Search(options.runs, seed)
    search.train_supernet()
    search.search()
    scan = first_scan(data / "semantickitti", "08")
    found = search.network(search.archs["found"])
    path = options.runs / f"real-width-{seed}.json"
    width = measured_once(path, lambda: width_as_fast_as(found, scan))
    networks = {"found": found, "narrow": narrowed(width)}
    times = latencies(networks, scan)
    described = {
        "found": ("--model.network", search.described(search.archs["found"].read_text())),
        "narrow": of_width(width),
    }
    scans = ("--data.train", json.dumps(frames_of_sequence_0(data)), "--data.val", "[]")
    before = {
        "found": search.derive("found")[0][0],
        "narrow": search.train_as_long("streets-before-real-narrow", *of_width(width))[0][0],
    }
    how = ("--config", "small", *scans, "--trainer.max_epochs", _REAL_EPOCHS)
    gentle = ("--model.learning_rate", _REAL_RATE_AFTER_STREETS)
    rows = []
    for kind, network in described.items():
        init = ("--init", before[kind] / "checkpoints" / "last.ckpt")
        starts: dict[str, tuple[object, ...]] = {"nothing": (), "streets": (*gentle, *init)}
        for start, more in starts.items():
            after = "" if start == "nothing" else f"-after-{start}"
            run = options.runs / f"real-{kind}{after}-{seed}"
            seconds = trained(run, "train", *how, *network, *more)
            rows.append(
                {
                    "network": kind,
                    "weights_from": start,
                    "latency_ms": times[kind],
                    "parameters": sum(p.numel() for p in networks[kind].parameters()),
                    "minutes": round(seconds / 60, 1),
                    **scores_of(run, [unseen_frame(data)]),
                }
            )
    yield rows


def _ranking(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Networks that the random search drew, trained alone; tested on the scans it chose by.

    In the supernet they were scored on every second of these. They are spread evenly over the
    places that their scores in the supernet give them.
    """
    search = _Search(options.runs, options.seeds[0])
    search.train_supernet()
    search.search()
    drawn = sorted(search.result()["random"]["trials"], key=lambda trial: float(trial["miou"]))
    places = [round(i * (len(drawn) - 1) / (_ALONE - 1)) for i in range(_ALONE)]
    rows = []
    for number, trial in enumerate(drawn[place] for place in places):
        run = options.runs / f"alone-{number}-{search.seed}"
        network = ("--model.network", search.described(json.dumps(trial["arch"])))
        seconds = search.train(run, *network, "--trainer.max_epochs", _ALONE_EPOCHS)
        scores = scores_of(run, [{"sequences": CHOOSE}])
        about = {"latency_ms": trial["latency_ms"], "miou_in_supernet": trial["miou"]}
        rows.append({"network": number, "minutes": round(seconds / 60, 1), **about, **scores})
    there, alone = ([row[key] for row in rows] for key in ("miou_in_supernet", "miou"))
    tau = float(kendall_rank_corrcoef(torch.tensor(there), torch.tensor(alone)))
    yield [*rows, {"network": "all", "kendall_tau": tau}]


def _pruning(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    yield pruning.rows(options.runs, options.seeds[0])


if __name__ == "__main__":
    main()
