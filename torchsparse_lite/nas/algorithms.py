# SPDX-License-Identifier: MIT
"""How a search comes to the next architecture: at random, by evolution, or by NSGA-II."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from torchsparse_lite.errors import check_choice, needs_extra, refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.constraint import Fit
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.storage import ARCH, SCORES, is_complete

__all__ = ["EVOLUTIONS", "Algorithm", "Evolution", "algorithm_of"]

_GENERATIONS, _LEAST_POPULATION = 10, 8
_NSGA2_POPULATION = 50


@dataclass(frozen=True)
class Evolution:
    """How a population changes.

    Attributes:
        population: architectures of a generation; of the first one that is the largest
            architecture, and others at random.
        parents: best ones so far that the next generation comes from.
        mutants: share of a generation that is mutated; the others are crossed.
        probability: of a gene to mutate.
    """

    population: int
    parents: int
    mutants: float
    probability: float

    def scaled(self, population: int) -> Evolution:
        """With another population, and as large a share of parents."""
        parents = max(round(self.parents * population / self.population), 2)
        return replace(self, population=population, parents=parents)


EVOLUTIONS = {
    "spos": Evolution(50, 10, 0.5, 0.1),
    "ofa": Evolution(100, 25, 0.5, 0.1),
    "hat": Evolution(125, 25, 0.5, 0.3),
    "sparsevit": Evolution(100, 25, 0.5, 0.1),
}
"""Settings of published searches: Guo et al., ECCV 2020; Cai et al., ICLR 2020; Wang et al., ACL
2020; Chen et al., CVPR 2023."""


class Algorithm(ABC):
    """Proposes architectures.

    Args:
        space: of the architectures.
        seed: of what Optuna draws.
        fit: makes proposals meet the constraint.

    Attributes:
        draws: proposals for a trial, at most, until one is new.
    """

    draws: ClassVar[int] = 8

    def __init__(self, space: SearchSpace, seed: int, fit: Fit) -> None:
        self._space = space
        self._seed = seed
        self._fit = fit

    @property
    def settings(self) -> dict[str, Any]:
        """What it proposes by, as JSON has it."""
        return {}

    def sampler(self, number: int) -> Any:
        """Optuna's, for a trial; made anew for each, so that it draws the same after a break."""
        own = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return self._sampler_with(own)

    def _sampler_with(self, seed: int) -> Any:
        samplers = needs_extra("search", "optuna.samplers", "search")
        return samplers.RandomSampler(seed=seed)

    @abstractmethod
    def propose(self, trial: Any, before: Sequence[Any], rng: Generator) -> Arch:
        """The architecture of a trial of Optuna's, of which some were there before.

        It meets the constraint.
        """

    def _fresh(self, rng: Generator) -> Arch:
        """At random, as wide as the constraint allows: or most would be far below it."""
        return self._fit(self._space.sample(rng), fill=True)


class _Random(Algorithm):
    def propose(self, trial: Any, before: Sequence[Any], rng: Generator) -> Arch:
        return self._fresh(rng)


class _Nsga2(Algorithm):
    """All objectives together, so small architectures are as good as they are.

    A proposal that does not meet the constraint is judged by what it is repaired to, and handed on
    as it was drawn.
    """

    draws = 1

    def __init__(self, space: SearchSpace, seed: int, fit: Fit, population: int) -> None:
        super().__init__(space, seed, fit)
        self._population = population

    @property
    def settings(self) -> dict[str, Any]:
        return {"population": self._population}

    def _sampler_with(self, seed: int) -> Any:
        samplers = needs_extra("search", "optuna.samplers", "search")
        return samplers.NSGAIISampler(population_size=self._population, seed=seed)

    def propose(self, trial: Any, before: Sequence[Any], rng: Generator) -> Arch:
        chosen = {
            gene.name: gene.options[trial.suggest_int(gene.name, 0, len(gene.options) - 1)]
            for gene in self._space.genes
        }
        return self._fit(self._space.arch(chosen))


class _Evolving(Algorithm):
    """By the first objective."""

    def __init__(self, space: SearchSpace, seed: int, fit: Fit, evolution: Evolution) -> None:
        super().__init__(space, seed, fit)
        self._evolution = evolution

    @property
    def settings(self) -> dict[str, Any]:
        return {"population": self._evolution.population}

    def propose(self, trial: Any, before: Sequence[Any], rng: Generator) -> Arch:
        evolution, place = self._evolution, len(before)
        if not place:
            return self._fit(self._space.largest, fill=True)
        begun = place // evolution.population * evolution.population
        sign = -1 if trial.study.directions[0].name == "MAXIMIZE" else 1
        parents = self._parents(before[:begun], sign)
        if not parents:
            return self._fresh(rng)
        if place - begun < evolution.mutants * evolution.population or len(parents) == 1:
            parent = parents[int(rng.integers(len(parents)))]
            child = self._space.mutate(parent, rng, evolution.probability)
        else:
            one, other = rng.choice(len(parents), 2, replace=False)
            child = self._space.crossover(parents[one], parents[other], rng)
        return self._fit(child, fill=True)  # repaired both ways, or generations shrink

    def _parents(self, generations: Sequence[Any], sign: int) -> list[Arch]:
        """The best so far, each once: those with the least score times ``sign``.

        One that turned out to cost too much has no children.
        """
        seen = [
            trial
            for trial in generations
            if is_complete(trial) and self._fit.is_kept(trial.user_attrs[SCORES])
        ]
        seen.sort(key=lambda trial: (sign * trial.values[0], trial.number))
        ranked = list(dict.fromkeys(trial.user_attrs[ARCH] for trial in seen))
        return [Arch.from_json(text) for text in ranked[: self._evolution.parents]]


def algorithm_of(
    name: str, space: SearchSpace, fit: Fit, *, trials: int, population: int | None, seed: int
) -> Algorithm:
    """An algorithm by its name.

    Args:
        name: a key of :data:`EVOLUTIONS`, "nsga2" or "random".
        space: of the architectures.
        fit: makes proposals meet the constraint.
        trials: of the whole search.
        population: of an evolution or of NSGA-II; by default that of the paper, 50 for NSGA-II,
            or, if there are few trials, so many that there are ten generations.
        seed: of what Optuna draws.
    """
    check_choice("search: algorithm", name, (*EVOLUTIONS, "nsga2", "random"))
    if population is not None and population < 2:
        remedy = "Leave it out for the default."
        refuse("search: population", "at least 2", population, remedy)
    if name == "random":
        return _Random(space, seed, fit)
    few = max(trials // _GENERATIONS, _LEAST_POPULATION)
    if name == "nsga2":
        return _Nsga2(space, seed, fit, population or min(_NSGA2_POPULATION, few))
    whole = EVOLUTIONS[name]
    return _Evolving(space, seed, fit, whole.scaled(population or min(whole.population, few)))
