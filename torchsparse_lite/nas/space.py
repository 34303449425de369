# SPDX-License-Identifier: MIT
"""Search spaces as data: genes, and what can be done with their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.random import Generator
from torch import nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.arch import Arch, Value

__all__ = ["Gene", "SearchSpace", "widths"]


@dataclass(frozen=True)
class Gene:
    """One thing to choose.

    Attributes:
        name: dotted.
        options: from cheap to dear if ``is_ordered``.
        weights: how often each option is drawn; equal if empty.
        needs: name of another gene, listed before, and its values under which this one matters.
        is_ordered: whether an earlier option costs less; repair takes earlier ones.
        is_width: a number of channels, or a factor of them.
    """

    name: str
    options: tuple[Value, ...]
    weights: tuple[int, ...] = ()
    needs: tuple[str, frozenset[Value]] | None = None
    is_ordered: bool = True
    is_width: bool = False

    def is_active(self, chosen: Mapping[str, Value]) -> bool:
        """Whether it matters beside these values."""
        return self.needs is None or chosen.get(self.needs[0]) in self.needs[1]

    def draw(self, rng: Generator) -> Value:
        """One option."""
        if not self.weights:
            return self.options[int(rng.integers(len(self.options)))]
        ends = np.cumsum(self.weights)
        return self.options[int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))]


def widths(
    name: str,
    low: int,
    high: int,
    quantum: int,
    *,
    needs: tuple[str, frozenset[Value]] | None = None,
) -> Gene:
    """Numbers of channels: every integer from ``low`` to ``high``, rounded down to the quantum.

    An option is drawn as often as integers are rounded to it; none is below the quantum.
    """
    rounded = [max(c // quantum * quantum, quantum) for c in range(low, high + 1)]
    options = tuple(sorted(set(rounded)))
    weights = tuple(rounded.count(option) for option in options)
    return Gene(name, options, weights, needs, is_width=True)


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Genes, and the network that an architecture stands for.

    Attributes:
        name: of the space; every Arch carries it.
        genes: those that others need come before them.
        network: called with an Arch and the options of :meth:`build`.
        structures: values of genes that change which layers there are, not only their sizes: with
            all other genes at their largest, each layer is somewhere among these in full.
    """

    name: str
    genes: tuple[Gene, ...]
    network: Callable[..., nn.Module]
    structures: tuple[Mapping[str, Value], ...] = ({},)

    @cached_property
    def by_name(self) -> dict[str, Gene]:
        """Gene of each name."""
        return {gene.name: gene for gene in self.genes}

    def build(self, arch: Arch, **options: Any) -> nn.Module:
        """The network of an architecture.

        Args:
            arch: of this space.
            **options: of the network, such as ``in_channels`` and ``num_classes``.
        """
        self.validate(arch)
        return self.network(arch, **options)

    def arch(self, values: Mapping[str, Value]) -> Arch:
        """The architecture of these values; those that do not matter are left out.

        Raises:
            ValueError: a value is missing or no option of its gene, or a name is unknown.
        """
        unknown = values.keys() - self.by_name.keys()
        if unknown:
            rule, remedy = f"genes of space {self.name}", "Compare with the names in space.genes."
            refuse("SearchSpace.arch: values", rule, sorted(unknown), remedy)

        def choose(gene: Gene) -> Value:
            if gene.name not in values:
                remedy = "Give all genes that matter."
                refuse(f"SearchSpace.arch: {gene.name}", "given", "nothing", remedy)
            return values[gene.name]

        return self._arch(choose)

    def _arch(self, choose: Callable[[Gene], Value]) -> Arch:
        """Ask for every gene that matters, in order."""
        chosen: dict[str, Value] = {}
        for gene in self.genes:
            if gene.is_active(chosen):
                value = choose(gene)
                if value not in gene.options:
                    rule = f"one of {', '.join(map(str, gene.options))}"
                    remedy = "Choose an option of the gene."
                    refuse(f"SearchSpace.arch: {gene.name}", rule, value, remedy)
                # That of the gene: 2.0 is equal to 2, and not the same in JSON.
                chosen[gene.name] = gene.options[gene.options.index(value)]
        return Arch(self.name, tuple(chosen.items()))

    def validate(self, arch: Arch) -> None:
        """Raise ValueError unless the architecture is one of this space."""
        if arch.space != self.name:
            remedy = "Take the space that it was made for."
            refuse("SearchSpace.validate: arch", f"of space {self.name}", arch.space, remedy)
        plain = self.arch(arch)
        if plain.to_json() != arch.to_json():  # 2 and 2.0 are equal, and not the same in JSON
            remedy = "Make it with SearchSpace.arch, which leaves out what does not matter."
            rule = "of the genes that matter, in the order of the space"
            actual = sorted(arch.keys() - plain.keys()) or "another order or type"
            refuse("SearchSpace.validate: arch", rule, actual, remedy)

    def sample(self, rng: Generator) -> Arch:
        """Draw every gene; the same for generators in the same state."""
        return self._arch(lambda gene: gene.draw(rng))

    def mutate(self, arch: Arch, rng: Generator, probability: float = 0.1) -> Arch:
        """Draw each gene anew with this probability, and those that come to matter.

        Args:
            arch: of the space; left as it is.
            rng: decides.
            probability: of each gene, from 0 to 1.
        """

        def choose(gene: Gene) -> Value:
            is_kept = gene.name in arch and rng.random() >= probability
            return arch[gene.name] if is_kept else gene.draw(rng)

        return self._arch(choose)

    def crossover(self, one: Arch, other: Arch, rng: Generator) -> Arch:
        """Take each gene of one of the two, and draw those that neither has.

        Args:
            one: of the space.
            other: of the space.
            rng: decides.
        """

        def choose(gene: Gene) -> Value:
            parents = (one, other) if rng.random() < 0.5 else (other, one)
            known = [parent[gene.name] for parent in parents if gene.name in parent]
            return known[0] if known else gene.draw(rng)

        return self._arch(choose)

    @property
    def largest(self) -> Arch:
        """The last option of every gene."""
        return self._arch(lambda gene: gene.options[-1])

    @property
    def smallest(self) -> Arch:
        """The first option of every gene."""
        return self._arch(lambda gene: gene.options[0])

    def cheapest(self, cost: Callable[[Arch], float]) -> Arch:
        """The smallest architecture, each gene in turn changed to what costs least.

        For genes whose first option is not the cheapest on every machine.
        """
        best = self.smallest
        least = cost(best)
        for gene in self.genes:
            for option in gene.options:
                changed = self._arch(
                    lambda g: option if g is gene else best.get(g.name, g.options[0])  # noqa: B023
                )
                if changed != best and (other := cost(changed)) < least:
                    best, least = changed, other
        return best

    def covering(self) -> Iterable[Arch]:
        """Architectures among which each layer of any other is, at least as large."""
        for structure in self.structures:
            yield self._arch(lambda gene: structure.get(gene.name, gene.options[-1]))  # noqa: B023

    def repair(
        self, arch: Arch, fits: Callable[[Arch], bool], *, fill: bool = False, steps: int = 256
    ) -> Arch | None:
        """The architecture, made smaller as far as it takes.

        First widths go down together in proportion, then all genes that have an order.

        Args:
            arch: of this space.
            fits: whether an architecture meets the constraint.
            fill: let the widths of one that fits go up together as far as it still does.
            steps: sizes between the architecture and the smallest.

        Returns:
            An architecture that fits; None if not even the smallest does.
        """
        if fits(arch):
            return self._filled(arch, fits, steps) if fill else arch
        widths_alone = {gene.name: gene.is_width for gene in self.genes}
        all_ordered = {gene.name: gene.is_ordered for gene in self.genes}
        for is_sized in (widths_alone, all_ordered):
            if fits(self._sized(arch, 0.0, is_sized)):
                return self._largest_of(arch, (0.0, 1.0), is_sized, fits, steps)
        return None

    def _filled(self, arch: Arch, fits: Callable[[Arch], bool], steps: int) -> Arch:
        genes = [gene for gene in self.genes if gene.is_width and gene.name in arch]
        most = max((float(g.options[-1]) / float(arch[g.name]) for g in genes), default=1.0)
        is_sized = {gene.name: gene.is_width for gene in self.genes}
        widest = self._sized(arch, most, is_sized)
        if fits(widest):
            return widest
        return self._largest_of(arch, (1.0, most), is_sized, fits, steps)

    def _largest_of(
        self,
        arch: Arch,
        ends: tuple[float, float],
        is_sized: Mapping[str, bool],
        fits: Callable[[Arch], bool],
        steps: int,
    ) -> Arch:
        """By halving between two sizes, of which the first fits and the second does not."""

        def sized(step: int) -> Arch:
            return self._sized(arch, ends[0] + (ends[1] - ends[0]) * step / steps, is_sized)

        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(sized(middle)) else (low, middle)
        return sized(low)

    def _sized(self, arch: Arch, size: float, is_sized: Mapping[str, bool]) -> Arch:
        """Widths times ``size``; of the other genes an option that far down."""

        def choose(gene: Gene) -> Value:
            if gene.name not in arch or not is_sized[gene.name]:
                return arch.get(gene.name, gene.options[0])
            if gene.is_width:
                wanted = size * float(arch[gene.name])
                return min(gene.options, key=lambda option: abs(float(option) - wanted))
            return gene.options[round(size * gene.options.index(arch[gene.name]))]

        return self._arch(choose)

    def size(self) -> int:
        """How many different architectures there are."""
        children: dict[str, list[Gene]] = {}
        for gene in self.genes:
            if gene.needs:
                children.setdefault(gene.needs[0], []).append(gene)
        return prod(_count(gene, children) for gene in self.genes if not gene.needs)

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self.genes)} genes, {self.size():.1e})"


def _count(gene: Gene, children: Mapping[str, Sequence[Gene]]) -> int:
    below = children.get(gene.name, ())
    return sum(
        prod(_count(child, children) for child in below if child.is_active({gene.name: value}))
        for value in gene.options
    )
