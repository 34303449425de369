# SPDX-License-Identifier: MIT
"""Searches: better than chance, inside the constraint, resumed, shared, refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from torchsparse_lite import nas
from torchsparse_lite.nas.algorithms import EVOLUTIONS
from torchsparse_lite.nas.constraint import Constraint
from torchsparse_lite.nas.search import search

pytest.importorskip("optuna", reason="the extra search is not installed")

import optuna
from search_and_maybe_die import LIMIT, SPACE, run, score, width

import torchsparse_lite.nas.storage as storage_module
from torchsparse_lite.nas.storage import SharedStudy

TESTS = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.mark.parametrize("algorithm", [*EVOLUTIONS, "nsga2"])
def test_searches_beat_random_ones(algorithm):
    """At the same number of trials, over three seeds."""
    for seed in range(3):
        found = run(None, algorithm, 400, seed=seed)
        chance = run(None, "random", 400, seed=seed)
        assert len(found.trials) == len(chance.trials) == 400
        assert found.best.scores["good"] > chance.best.scores["good"]
        assert all(width(trial.arch) <= LIMIT for trial in found.trials)


def test_evolution_keeps_to_its_settings():
    """A first generation at random; then mutants of the best, then their children.

    Under a limit that all meet; under another all are then made as wide as it allows.
    """
    result = run(None, "spos", 100, population=50, limit=width(SPACE.largest))
    first, second = result.trials[:50], result.trials[50:]
    assert first[0].arch == SPACE.largest
    best = sorted(first, key=lambda found: -found.scores["good"])[:10]
    for number, found in enumerate(second):
        near = max(
            np.mean([parent.arch.get(n) == v for n, v in found.arch.items()]) for parent in best
        )
        assert near > (0.5 if number < 25 else 0.3)
    assert np.mean([f.scores["good"] for f in second]) > np.mean([f.scores["good"] for f in first])


@pytest.mark.parametrize("algorithm", [*EVOLUTIONS, "random"])
def test_all_are_as_wide_as_a_limit_allows(algorithm):
    """Children, too: made smaller only, generations would shrink away from the limit."""
    result = run(None, algorithm, 200)
    widths = np.array([width(trial.arch) for trial in result.trials])
    assert np.all(widths <= LIMIT)
    assert widths[:100].mean() > 0.97 * LIMIT
    assert widths[100:].mean() > 0.97 * LIMIT


def test_the_front_is_what_nothing_beats():
    result = run(None, "nsga2", 120)
    front = result.pareto
    assert front[0].scores["good"] == result.best.scores["good"]
    for found in result.trials:
        beaten = [
            f
            for f in front
            if f.scores["good"] >= found.scores["good"]
            and f.scores["width"] <= found.scores["width"]
        ]
        assert beaten
    for one in front:
        for other in front:
            better = one.scores["good"] > other.scores["good"]
            assert one is other or better == (one.scores["width"] > other.scores["width"])


@pytest.mark.parametrize("algorithm", ["spos", "nsga2", "random"])
def test_a_killed_search_ends_as_one_without_a_break(tmp_path, algorithm):
    whole = run(None, algorithm, 130)
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    script = [sys.executable, str(TESTS / "search_and_maybe_die.py"), storage, algorithm, "130"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    for die_at in ("70", "20"):
        killed = subprocess.run([*script, die_at], env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
    resumed = run(storage, algorithm, 130)
    assert [f.arch for f in resumed.trials] == [f.arch for f in whole.trials]
    assert resumed.pareto == whole.pareto
    assert run(storage, algorithm, 130).trials == resumed.trials  # nothing is left to do


def test_processes_share_a_search(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    script = [sys.executable, str(TESTS / "search_and_maybe_die.py"), storage, "spos", "60", "-1"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    workers = [subprocess.Popen(script, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    seen = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert seen == [b"60\n", b"60\n"]  # nobody leaves before the others are done
    result = run(storage, "spos", 60)
    assert len(result.trials) == 60
    trials = optuna.load_study(study_name="search", storage=storage).get_trials()
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    places = [t.user_attrs["place"] for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(places) == list(range(60))


def test_trials_of_machines_that_died_are_done_again(tmp_path, monkeypatch):
    """Once their pulse has stopped; and what those tell after all no longer counts."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    monkeypatch.setattr(storage_module, "_BEAT_S", 0.05)
    monkeypatch.setattr(storage_module, "_SILENCE_S", 1.0)
    run(storage, "random", 20)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    away = SharedStudy(storage, "search", settings_of(storage))
    trial = away.ask(optuna.samplers.RandomSampler(seed=0))
    monkeypatch.undo()
    monkeypatch.setattr(storage_module, "_SILENCE_S", 1.0)
    here = SharedStudy(storage, "search", settings_of(storage))

    def count_after(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            here.free_the_dead()
            time.sleep(0.1)
        return len(here.live())

    with away.working():
        monkeypatch.setattr(storage_module, "_BEAT_S", 0.05)
        assert count_after(1.5) == 21
    assert count_after(1.5) == 20
    away.tell(trial, SPACE.smallest.to_json(), score(SPACE.smallest))
    assert len(here.complete()) == 20


def test_a_place_that_was_given_up_is_taken_again(tmp_path):
    """So every draw is made once, whoever dies."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    run(storage, "random", 1)
    study = SharedStudy(storage, "search", settings_of(storage))
    trials = [study.ask(optuna.samplers.RandomSampler(seed=0)) for _ in range(3)]
    assert [len(study.before(trial)) for trial in trials] == [1, 2, 3]
    study.give_up(trials[1].number)
    again = study.ask(optuna.samplers.RandomSampler(seed=0))
    assert len(study.before(again)) == 2
    assert len(study.before(trials[2])) == 3


def test_of_two_that_tell_of_a_trial_the_first_counts(tmp_path):
    """Workers that begin together find the same dead ones, or one dies just after it told."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    run(storage, "random", 1)
    study = SharedStudy(storage, "search", settings_of(storage))
    trials = [study.ask(optuna.samplers.RandomSampler(seed=0)) for _ in range(3)]
    arch, scores = SPACE.smallest.to_json(), score(SPACE.smallest)
    study.tell(trials[0], arch, scores)
    for trial in trials[:2]:
        study.give_up(trial.number)
        study.give_up(trial.number)
    study.tell(trials[1], arch, scores)
    assert [trial.number for trial in study.complete()] == [0, trials[0].number]
    assert [trial.number for trial in study.live()] == [0, trials[0].number, trials[2].number]


def test_nsga2_takes_a_population():
    """A first generation is drawn at random; with the default the whole search would be."""
    few = run(None, "nsga2", 60, population=10)
    assert few.trials[:10] == run(None, "nsga2", 60, population=50).trials[:10]
    assert few.trials != run(None, "nsga2", 60, population=50).trials


def settings_of(storage):
    """That a search of ``run`` was begun with."""
    return optuna.load_study(study_name="search", storage=storage).user_attrs["settings"]


def test_a_limit_that_only_unusual_architectures_meet():
    """Where the first option of a gene is not the cheapest, the search begins at the cheapest."""
    price = {"a": 5.0, "b": 1.0, "c": 3.0}
    genes = [nas.Gene(name, tuple(price), is_ordered=False) for name in ("x", "y")]
    space = nas.SearchSpace("prices", tuple(genes), lambda arch: None)

    def cost(arch):
        return sum(price[value] for value in arch.values())

    assert cost(space.cheapest(cost)) == 2.0
    settings = {"trials": 10, "algorithm": "random", "constraint": Constraint("price", 2.0, cost)}
    found = search(space, lambda arch: {"good": 1.0}, {"good": True}, **settings)
    assert {cost(trial.arch) for trial in found.trials} == {2.0}
    settings["constraint"] = Constraint("price", 1.0, cost)
    with pytest.raises(ValueError, match=r"limit of price must be at least 2, the cheapest"):
        search(space, lambda arch: {"good": 1.0}, {"good": True}, **settings)


def test_what_turned_out_to_cost_too_much_has_no_children():
    """By the estimate all meet the limit; of the best, the true cost is above it."""
    genes = tuple(nas.Gene(name, tuple(range(8))) for name in "abc")
    space = nas.SearchSpace("toy", genes, lambda arch: None)

    def evaluate(arch):
        return {"good": float(arch["a"] + arch["b"]), "cost": 10.0 * (arch["a"] > 3)}

    def children(score):
        constraint = Constraint("cost", 5.0, lambda arch: 0.0, score)
        objectives = {"good": True, "cost": False}
        settings = {"trials": 200, "population": 20, "constraint": constraint}
        trials = search(space, evaluate, objectives, **settings).trials[100:]
        return sum(found.scores["cost"] > 5 for found in trials) / len(trials)

    assert children(None) > 0.8
    assert children("cost") < 0.4


def test_a_search_with_fewer_trials_sees_only_those(tmp_path):
    """What more it has looked at before does not count."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    whole = run(storage, "random", 30)
    assert run(storage, "random", 20).trials == whole.trials[:20]
    assert run(storage, "random", 30).trials == whole.trials


def test_what_was_seen_is_not_evaluated_again():
    calls = []

    def evaluate(arch):
        calls.append(arch)
        return {"good": float(len(arch))}

    space = nas.pvcnn_grid("s3dis")
    result = search(space, evaluate, {"good": True}, trials=60, algorithm="random")
    assert len(result.trials) == 60
    assert len(calls) == len(set(calls)) <= space.size() == 20


def test_progress_is_told():
    told = []
    search(
        SPACE,
        lambda arch: {"good": 1.0},
        {"good": True},
        trials=3,
        progress=lambda number, count, found: told.append((number, count, found.scores["good"])),
    )
    assert told == [(1, 3, 1.0), (2, 3, 1.0), (3, 3, 1.0)]


def test_what_cannot_be_searched_is_refused(tmp_path):
    def start(**changes):
        settings = {"trials": 2, "algorithm": "random", **changes}
        return search(SPACE, lambda arch: {"good": 1.0}, {"good": True}, **settings)

    with pytest.raises(ValueError, match="search: algorithm must be one of spos"):
        start(algorithm="darts")
    with pytest.raises(ValueError, match="search: trials must be at least 1, got 0"):
        start(trials=0)
    for algorithm in ("spos", "nsga2"):
        with pytest.raises(ValueError, match="search: population must be at least 2, got 0"):
            start(algorithm=algorithm, population=0)
    with pytest.raises(ValueError, match="search: seed must be at least 0, got -1"):
        start(seed=-1)
    narrow = Constraint("width in channels", 10.0, width)
    with pytest.raises(
        ValueError, match=r"search: limit of width in channels must be at least 880"
    ):
        start(constraint=narrow)
    for url in ("sqlite:////nowhere/at/all.db", "floppy://a"):
        with pytest.raises((ValueError, OSError), match="search: storage must be"):
            start(storage=url)
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    start(storage=storage)
    with pytest.raises(ValueError, match="search: weights must be as in"):
        start(storage=storage, about={"weights": "others"})
    with pytest.raises(ValueError, match=r"search: scores must be finite, got .'good': nan"):
        search(SPACE, lambda arch: {"good": float("nan")}, {"good": True}, trials=1)
    words = r"search: algorithm and population and seed must be as in 'search': .*, got .*'seed': 1"
    with pytest.raises(ValueError, match=words):
        start(storage=storage, algorithm="spos", seed=1)
    url = "postgresql://user:secret@nowhere.invalid/db"
    with pytest.raises((ValueError, OSError), match="search: storage must be") as refused:
        start(storage=url)
    assert "secret" not in str(refused.value)
