# SPDX-License-Identifier: MIT
"""Search for architectures, in a storage that survives a kill and that many workers can share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from torchsparse_lite.errors import check_choice, needs_extra, refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.storage import ARCH, SCORES, SharedStudy, is_complete

__all__ = ["EVOLUTIONS", "Constraint", "Evolution", "Found", "SearchResult", "search"]

_POLL_S = 1.0


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

    def within(self, name: str, limit: float) -> SearchResult:
        """Of those whose score of this name is no more than the limit.

        Raises:
            ValueError: there is none.
        """
        trials = tuple(found for found in self.trials if found.scores[name] <= limit)
        if not trials:
            least = min(found.scores[name] for found in self.trials)
            rule, remedy = f"at least {least:.4g}, the least seen", "Raise it, or look at more."
            refuse(f"SearchResult.within: limit of {name}", rule, f"{limit:.4g}", remedy)
        return replace(self, trials=trials)

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
    if constraint is not None:
        cheapest = _meeting(constraint, space)
    settings = {
        "space": space.name,
        "algorithm": algorithm,
        "seed": seed,
        "objectives": dict(objectives),
        "constraint": None if constraint is None else [constraint.name, constraint.limit],
        **(about or {}),
    }
    study = SharedStudy(storage, name, settings)
    known = {found.arch: dict(found.scores) for found in _found(study, space)}
    while True:
        study.free_the_dead()
        number = len(study.live())
        if number >= trials:
            if len(study.complete()) >= trials:
                break
            time.sleep(_POLL_S)  # others are at the last ones, and may die over them
            continue
        trial = study.ask(_sampler(algorithm, seed, number))
        live = study.live()
        place = [other.number for other in live].index(trial.number)
        if place >= trials:  # another process was faster
            study.give_up(trial.number)
            continue
        rng = np.random.default_rng([seed, place])
        arch = _propose(space, algorithm, trial, live[:place], rng)
        if constraint is not None:
            repaired = space.repair(arch, constraint.is_met)
            arch = cheapest if repaired is None else repaired
        if arch not in known:
            known[arch] = _finite({key: float(value) for key, value in evaluate(arch).items()})
        scores = known[arch]
        study.tell(trial, arch.to_json(), scores)
        if progress is not None:
            progress(place + 1, trials, Found(arch, scores))
    return SearchResult(tuple(_found(study, space)), dict(objectives))


def _meeting(constraint: Constraint, space: SearchSpace) -> Arch:
    """An architecture that meets the constraint, as cheap as they come."""
    if constraint.is_met(space.smallest):
        return space.smallest
    cheapest = space.cheapest(constraint.cost)
    if not constraint.is_met(cheapest):
        refuse(
            f"search: limit of {constraint.name}",
            f"at least {constraint.cost(cheapest):.4g}, the cheapest architecture seen",
            f"{constraint.limit:.4g}",
            "Raise the limit, or search a space with smaller networks.",
        )
    return cheapest


def _finite(scores: dict[str, float]) -> dict[str, float]:
    if not all(math.isfinite(score) for score in scores.values()):
        refuse("search: scores", "finite", scores, "Evaluate on scans with labels.")
    return scores


def _found(study: SharedStudy, space: SearchSpace) -> list[Found]:
    result = []
    for trial in study.complete():
        arch = Arch.from_json(trial.user_attrs[ARCH])
        space.validate(arch)
        result.append(Found(arch, trial.user_attrs[SCORES]))
    return result


def _sampler(algorithm: str, seed: int, number: int) -> Any:
    """Of Optuna; made anew for each trial, so that it draws the same after a break."""
    samplers = needs_extra("search", "optuna.samplers", "search")
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return (samplers.NSGAIISampler if algorithm == "nsga2" else samplers.RandomSampler)(seed=own)


def _propose(
    space: SearchSpace, algorithm: str, trial: Any, before: Sequence[Any], rng: Generator
) -> Arch:
    """The architecture of a trial, of which some were there before."""
    if algorithm == "nsga2":
        chosen = {
            gene.name: gene.options[trial.suggest_int(gene.name, 0, len(gene.options) - 1)]
            for gene in space.genes
        }
        return space.arch(chosen)
    if algorithm == "random":
        return space.sample(rng)
    return _evolved(space, EVOLUTIONS[algorithm], trial, before, rng)


def _evolved(
    space: SearchSpace, evolution: Evolution, trial: Any, before: Sequence[Any], rng: Generator
) -> Arch:
    """Of the generation after the last whole one."""
    place = len(before)
    begun = place // evolution.population * evolution.population
    seen = [other for other in before[:begun] if is_complete(other)]
    if not seen:
        return space.sample(rng)
    sign = 1 if trial.study.directions[0].name == "MAXIMIZE" else -1
    seen.sort(key=lambda other: (-sign * other.values[0], other.number))
    ranked = list(dict.fromkeys(other.user_attrs[ARCH] for other in seen))
    parents = [Arch.from_json(text) for text in ranked[: evolution.parents]]
    if place - begun < evolution.mutants * evolution.population or len(parents) == 1:
        parent = parents[int(rng.integers(len(parents)))]
        return space.mutate(parent, rng, evolution.probability)
    one, other = rng.choice(len(parents), 2, replace=False)
    return space.crossover(parents[one], parents[other], rng)
