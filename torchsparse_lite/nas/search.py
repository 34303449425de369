# SPDX-License-Identifier: MIT
"""Search for architectures, in a storage that survives a kill and that many workers can share."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.random import Generator

from torchsparse_lite.errors import check_choice, needs_extra, refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.space import SearchSpace

__all__ = ["EVOLUTIONS", "Constraint", "Evolution", "Found", "SearchResult", "search"]

_ARCH, _WORKER, _SCORES = "arch", "worker", "scores"
_ATTEMPTS = 5
_SETTLING = timedelta(seconds=30)


@dataclass(frozen=True)
class Evolution:
    """How a population changes.

    Attributes:
        population: architectures of a generation; the first one is drawn at random.
        parents: best ones so far that the next generation comes from.
        mutants: share of a generation that is mutated; the others are crossed.
        probability: of a gene to mutate.
    """

    population: int
    parents: int
    mutants: float
    probability: float


EVOLUTIONS = {
    "spos": Evolution(50, 10, 0.5, 0.1),
    "ofa": Evolution(100, 25, 0.5, 0.1),
    "hat": Evolution(125, 25, 0.5, 0.3),
    "sparsevit": Evolution(100, 25, 0.5, 0.1),
}
"""Settings of published searches: Guo et al., ECCV 2020; Cai et al., ICLR 2020; Wang et al., ACL
2020; Chen et al., CVPR 2023."""


@dataclass(frozen=True)
class Constraint:
    """What an architecture may cost.

    Attributes:
        name: of the cost, with its unit.
        limit: the most.
        cost: of an architecture.
    """

    name: str
    limit: float
    cost: Callable[[Arch], float]

    def is_met(self, arch: Arch) -> bool:
        """Whether the architecture costs no more."""
        return self.cost(arch) <= self.limit


@dataclass(frozen=True)
class Found:
    """One architecture that was looked at.

    Attributes:
        arch: it.
        scores: its objectives by name.
    """

    arch: Arch
    scores: Mapping[str, float]


@dataclass(frozen=True)
class SearchResult:
    """What a search saw.

    Attributes:
        trials: in their order; an architecture that came again is there again.
        objectives: name of each, and whether more is better.
    """

    trials: tuple[Found, ...]
    objectives: Mapping[str, bool]

    @property
    def best(self) -> Found:
        """The best by the first objective; the earliest of equals."""
        name, more = next(iter(self.objectives.items()))
        return max(self.trials, key=lambda found: found.scores[name] * (1 if more else -1))

    @property
    def pareto(self) -> tuple[Found, ...]:
        """Those that none other beats in every objective, each once, best of the first in front."""
        signs = np.array([1.0 if more else -1.0 for more in self.objectives.values()])
        once = list({found.arch: found for found in self.trials}.values())
        values = np.array([[f.scores[name] for name in self.objectives] for f in once]) * signs
        front = [
            found
            for found, own in zip(once, values, strict=True)
            if not ((values >= own).all(1) & (values > own).any(1)).any()
        ]
        name, more = next(iter(self.objectives.items()))
        return tuple(sorted(front, key=lambda f: f.scores[name], reverse=more))


def search(
    space: SearchSpace,
    evaluate: Callable[[Arch], Mapping[str, float]],
    objectives: Mapping[str, bool],
    *,
    trials: int,
    algorithm: str = "spos",
    constraint: Constraint | None = None,
    seed: int = 0,
    storage: str | None = None,
    name: str = "search",
    about: Mapping[str, str] | None = None,
    progress: Callable[[int, int, Found], None] | None = None,
) -> SearchResult:
    """Look at this many architectures.

    Started again with the same storage and name it goes on, and ends where it would have ended
    without a break. Started several times at once, on one machine or on many, the processes share
    the work.

    Args:
        space: to search.
        evaluate: the scores of an architecture; called once for each.
        objectives: name of each score that counts, and whether more is better. Evolution goes by
            the first one.
        trials: architectures to look at, those of all processes together.
        algorithm: a key of :data:`EVOLUTIONS`, "nsga2" for all objectives together, or "random".
        constraint: on all architectures; those that do not meet it are made smaller.
        seed: of all that is drawn.
        storage: URL of an RDB such as ``sqlite:///search.db``; None keeps nothing.
        name: of the search in the storage.
        about: what else decides the scores, such as a hash of the weights: a search goes on only
            under the same.
        progress: called after each architecture with its number and the number of all.

    Returns:
        Everything that was looked at under this name.

    Raises:
        ValueError: an unknown algorithm; a constraint that no architecture can meet; a search of
            this name with other settings.
        OSError: the storage cannot be reached.
    """
    check_choice("search: algorithm", algorithm, (*EVOLUTIONS, "nsga2", "random"))
    if trials < 1:
        refuse("search: trials", "at least 1", trials, "Look at one architecture, at least.")
    if constraint is not None and not constraint.is_met(space.smallest):
        least = constraint.cost(space.smallest)
        refuse(
            f"search: limit of {constraint.name}",
            f"at least {least:.4g}, which the smallest architecture costs",
            f"{constraint.limit:.4g}",
            "Raise the limit, or search a space with smaller networks.",
        )
    settings = {
        "space": space.name,
        "algorithm": algorithm,
        "seed": seed,
        "objectives": dict(objectives),
        "constraint": None if constraint is None else [constraint.name, constraint.limit],
        **(about or {}),
    }
    study = _study(storage, name, settings)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    _free_the_dead(study)
    known = {f.arch: dict(f.scores) for f in _found(study, space)}
    while (number := _taken(study)) < trials:
        study.sampler = _sampler(algorithm, seed, number)
        trial = study.ask()
        trial.set_user_attr(_WORKER, worker)
        place = _places(study)[trial.number]
        if place >= trials:  # another process was faster
            study.tell(trial, state=_failed())
            break
        rng = np.random.default_rng([seed, place])
        arch = _propose(space, algorithm, study, trial, rng)
        if constraint is not None:
            repaired = space.repair(arch, constraint.is_met)
            arch = space.smallest if repaired is None else repaired
        if arch not in known:
            known[arch] = _finite({key: float(value) for key, value in evaluate(arch).items()})
        scores = known[arch]
        trial.set_user_attr(_ARCH, arch.to_json())
        trial.set_user_attr(_SCORES, scores)
        study.tell(trial, [scores[objective] for objective in objectives])
        if progress is not None:
            progress(place + 1, trials, Found(arch, scores))
    return SearchResult(tuple(_found(study, space)), dict(objectives))


def _study(storage: str | None, name: str, settings: Mapping[str, Any]) -> Any:
    optuna = needs_extra("search", "optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["maximize" if more else "minimize" for more in settings["objectives"].values()]
    try:
        study = _created(
            optuna, storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
    except ValueError as wrong:
        refuse("search: storage", "a URL of an RDB", f"{storage} ({wrong})", _STORAGE_REMEDY)
    except Exception as error:
        if "sqlalchemy" not in type(error).__module__ and not isinstance(error, ImportError):
            raise
        cause = str(error).splitlines()[0]
        refuse(
            "search: storage", "reachable", f"{storage} ({cause})", _STORAGE_REMEDY, error=OSError
        )
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", dict(settings))
    elif before != json.loads(json.dumps(settings)):
        other = sorted(key for key in settings if before.get(key) != settings[key])
        remedy = "Take another name or another storage."
        refuse(f"search: {' and '.join(other)}", f"as in the search {name!r}", "others", remedy)
    return study


_STORAGE_REMEDY = "Give a URL such as sqlite:///search.db, of a folder or server that is there."


def _finite(scores: dict[str, float]) -> dict[str, float]:
    if not all(math.isfinite(score) for score in scores.values()):
        refuse("search: scores", "finite", scores, "Evaluate on scans with labels.")
    return scores


def _created(optuna: Any, **options: Any) -> Any:
    """The study. Processes that begin a storage at the same time get into each other's way."""
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.create_study(**options)
        except Exception as error:
            if type(error).__name__ != "IntegrityError" or attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.2 * (attempt + 1))
    return None


def _trials(study: Any, *states: str) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.name in states]


def _taken(study: Any) -> int:
    """Architectures that were looked at or that a worker looks at now."""
    return len(_trials(study, "COMPLETE", "RUNNING"))


def _places(study: Any) -> dict[int, int]:
    """Place of each trial, by its number, among those that did not fail: a kill leaves no trace."""
    return {t.number: place for place, t in enumerate(_trials(study, "COMPLETE", "RUNNING"))}


def _free_the_dead(study: Any) -> None:
    """Give up trials of processes of this machine that are no more."""
    for trial in _trials(study, "RUNNING"):
        host, _, process = trial.user_attrs.get(_WORKER, "").rpartition(":")
        if not process:  # killed, or just about to write who it is
            is_dead = datetime.now() - trial.datetime_start > _SETTLING
        else:
            is_dead = host == socket.gethostname() and not _is_alive(int(process))
        if is_dead:
            study.tell(trial.number, state=_failed())


def _failed() -> Any:
    return needs_extra("search", "optuna.trial", "search").TrialState.FAIL


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _found(study: Any, space: SearchSpace) -> list[Found]:
    result = []
    for trial in _trials(study, "COMPLETE"):
        arch = Arch.from_json(trial.user_attrs[_ARCH])
        space.validate(arch)
        result.append(Found(arch, trial.user_attrs[_SCORES]))
    return result


def _sampler(algorithm: str, seed: int, number: int) -> Any:
    """Of Optuna; made anew for each trial, so that it draws the same after a break."""
    samplers = needs_extra("search", "optuna.samplers", "search")
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return (samplers.NSGAIISampler if algorithm == "nsga2" else samplers.RandomSampler)(seed=own)


def _propose(space: SearchSpace, algorithm: str, study: Any, trial: Any, rng: Generator) -> Arch:
    if algorithm == "nsga2":
        chosen = {
            gene.name: gene.options[trial.suggest_int(gene.name, 0, len(gene.options) - 1)]
            for gene in space.genes
        }
        return space.arch(chosen)
    if algorithm == "random":
        return space.sample(rng)
    return _evolved(space, EVOLUTIONS[algorithm], study, trial.number, rng)


def _evolved(
    space: SearchSpace, evolution: Evolution, study: Any, number: int, rng: Generator
) -> Arch:
    """Of the generation after the last whole one."""
    trials = _trials(study, "COMPLETE", "RUNNING")  # once: other processes go on meanwhile
    places = {trial.number: place for place, trial in enumerate(trials)}
    begun = places[number] // evolution.population * evolution.population
    before = [t for t in trials[:begun] if t.state.name == "COMPLETE"]
    if not before:
        return space.sample(rng)
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    before.sort(key=lambda trial: (-sign * trial.values[0], trial.number))
    ranked: Sequence[str] = list(dict.fromkeys(trial.user_attrs[_ARCH] for trial in before))
    parents = [Arch.from_json(text) for text in ranked[: evolution.parents]]
    if places[number] - begun < evolution.mutants * evolution.population or len(parents) == 1:
        parent = parents[int(rng.integers(len(parents)))]
        return space.mutate(parent, rng, evolution.probability)
    one, other = rng.choice(len(parents), 2, replace=False)
    return space.crossover(parents[one], parents[other], rng)
