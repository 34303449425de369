# SPDX-License-Identifier: MIT
"""Search for architectures, in a storage that survives a kill and that many workers can share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.algorithms import algorithm_of
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.constraint import Constraint, Fit
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.storage import ARCH, SCORES, SharedStudy

__all__ = ["Found", "SearchResult", "search"]


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
    population: int | None = None,
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
        trials: architectures to look at, those of all processes together. More than before goes
            on; an evolution keeps its population then, so say which one it had.
        algorithm: a key of :data:`~torchsparse_lite.nas.algorithms.EVOLUTIONS`, "nsga2" for all
            objectives together, or "random".
        population: of an evolution or of NSGA-II; by default that of the paper, 50 for NSGA-II,
            or, if there are few trials, so many that there are ten generations.
        constraint: on all architectures; those that do not meet it are made smaller, and others
            as wide as it allows, but for NSGA-II, which looks for small ones, too.
        seed: of all that is drawn.
        storage: URL of an RDB such as ``sqlite:///search.db``; None keeps nothing.
        name: of the search in the storage.
        about: what else decides the scores, such as a hash of the weights: a search goes on only
            under the same.
        progress: called after each architecture with its number and the number of all.

    Returns:
        The first ``trials`` that were looked at under this name.

    Raises:
        ValueError: an unknown algorithm; a constraint that no architecture can meet; a search of
            this name with other settings; no trials, a population below 2 or a seed below 0;
            scores that are not finite; a storage that is no URL of an RDB.
        OSError: the storage cannot be reached.
    """
    if trials < 1:
        refuse("search: trials", "at least 1", trials, "Look at one architecture, at least.")
    if seed < 0:
        refuse("search: seed", "at least 0", seed, "Take another number.")
    fit = Fit(space, constraint)
    by = algorithm_of(algorithm, space, fit, trials=trials, population=population, seed=seed)
    settings = {
        "space": space.name,
        "algorithm": algorithm,
        **by.settings,
        "seed": seed,
        "objectives": dict(objectives),
        "constraint": None if constraint is None else [constraint.name, constraint.limit],
        **(about or {}),
    }
    study = SharedStudy(storage, name, settings)
    seen = _Seen(study, space)
    with study.working():
        while (trial := study.claim(trials, by.sampler)) is not None:
            before, known = study.before(trial), seen.scores()
            rng = np.random.default_rng([seed, len(before)])
            for _ in range(by.draws):
                arch = by.propose(trial, before, rng)
                if arch not in known:
                    known[arch] = _finite({key: float(v) for key, v in evaluate(arch).items()})
                    break
            study.tell(trial, arch.to_json(), known[arch])
            if progress is not None:
                progress(len(before) + 1, trials, Found(arch, known[arch]))
    return SearchResult(tuple(seen.trials()[:trials]), dict(objectives))


class _Seen:
    """What the trials of a study have shown, each read once."""

    def __init__(self, study: SharedStudy, space: SearchSpace) -> None:
        self._study = study
        self._space = space
        self._read: dict[int, Found] = {}

    def trials(self) -> list[Found]:
        """In the order of their places."""
        return [self._found(trial) for trial in self._study.complete()]

    def scores(self) -> dict[Arch, dict[str, float]]:
        """Of every architecture that has some."""
        return {found.arch: dict(found.scores) for found in self.trials()}

    def _found(self, trial: Any) -> Found:
        if trial.number not in self._read:
            arch = Arch.from_json(trial.user_attrs[ARCH])
            self._space.validate(arch)
            self._read[trial.number] = Found(arch, trial.user_attrs[SCORES])
        return self._read[trial.number]


def _finite(scores: dict[str, float]) -> dict[str, float]:
    if not all(math.isfinite(score) for score in scores.values()):
        refuse("search: scores", "finite", scores, "Evaluate on scans with labels.")
    return scores
