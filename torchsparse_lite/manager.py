# SPDX-License-Identifier: MIT
"""The coordinate manager: how levels hang together, and which kernel maps are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import CUBE, HALVING, Level
from torchsparse_lite.errors import Triple, check_choice, refuse
from torchsparse_lite.kernel_map import ConvGeometry, KernelMap, NeighborTable
from torchsparse_lite.trace import scope

__all__ = ["CoordinateManager"]

_Maps = WeakKeyDictionary[Level, WeakKeyDictionary[Level, dict[ConvGeometry, KernelMap]]]


class CoordinateManager:
    """Levels and kernel maps of one forward pass.

    It travels with the tensors; nothing global remembers it. Every map is kept under its whole
    geometry and both of its levels, and serves forward and backward, training and evaluation.

    The levels that layers make are kept as long as the manager. Sites that data choose (pruning, a
    union) get a manager of their own, see :meth:`branch`, and a map onto a foreign target goes with
    the target, so an input that is used again and again does not collect what came of it before.

    Args:
        search: "auto" takes the Morton pyramid where it applies and hashing elsewhere; "hash"
            always hashes. The results are the same.
    """

    def __init__(self, search: str = "auto") -> None:
        check_choice("CoordinateManager: search", search, ("auto", "hash"))
        self._search = search
        self._maps: _Maps = WeakKeyDictionary()
        self._sites: dict[tuple[Level, ConvGeometry, str], Level] = {}
        self._made_from: dict[Level, Level] = {}

    def branch(
        self, parent: Level, level: Level, *others: tuple[CoordinateManager, Level]
    ) -> CoordinateManager:
        """A manager for ``level``, whose sites data chose among those of ``parent`` and ``others``.

        It knows the finer levels that those were made from, so that a decoder finds them again, and
        no map. At each stride the first one counts.

        Args:
            parent: a level of this manager.
            level: the new one, at the stride of ``parent``; or ``parent`` itself, and then the
                manager is this one if the others were made from nothing that it lacks.
            *others: more managers, each with a level at the same stride.
        """
        known = finer = self._finer(parent)
        for manager, other in others:
            finer = manager._finer(other) | finer
        if level is parent and len(finer) == len(known):
            return self
        branch = CoordinateManager(self._search)
        coarse_to_fine = sorted(finer.values(), key=lambda a: math.prod(a.stride), reverse=True)
        branch._made_from.update(pairwise([level, *coarse_to_fine]))
        return branch

    def strided(self, level: Level, geometry: ConvGeometry, rule: str = "full") -> Level:
        """Output sites of a convolution that is not submanifold.

        Args:
            level: the input sites.
            geometry: of the convolution.
            rule: "full" (every site whose window holds an input) or "cell" (one per occupied cell
                ``floor(fine / stride)``).

        Returns:
            The level, unique sites in Morton order; the same object when asked again.
        """
        check_choice("CoordinateManager.strided: rule", rule, ("full", "cell"))
        key = (level, geometry, rule)
        if key not in self._sites:
            shape = level.spatial_shape
            out_shape = None if shape is None else geometry.output_shape(shape)
            stride = _times(level.stride, geometry.stride)
            with scope("map"):
                if self._halves(level, geometry, rule):
                    coords = level.cells.level.coords
                else:
                    coords = level.sizes.sites(
                        _sites_per_site(geometry, rule) * len(level),
                        ops.coarse_sites,
                        level.coords,
                        geometry.triples,
                        rule,
                        out_shape,
                    )
            self._sites[key] = self._keep(level, coords, stride, out_shape)
        return self._sites[key]

    def generative(self, level: Level, geometry: ConvGeometry) -> Level:
        """Output sites of a generative transposed convolution: all that the kernel reaches."""
        key = (level, geometry, "generative")
        if key not in self._sites:
            shape = level.spatial_shape
            out_shape = None if shape is None else geometry.input_shape(shape)
            stride = _over(level.stride, geometry.stride)
            with scope("map"):
                coords = level.sizes.sites(
                    geometry.kernel_volume * len(level),
                    ops.fine_sites,
                    level.coords,
                    geometry.triples,
                    out_shape,
                )
            self._sites[key] = self._keep(level, coords, stride, out_shape)
        return self._sites[key]

    def finer(self, level: Level, stride: Triple) -> Level:
        """The level at tensor stride ``level.stride / stride`` that this one was made from.

        Raises:
            ValueError: there is none; the message names both remedies.
        """
        wanted = _over(level.stride, stride)
        for ancestor in self._ancestors(level):
            if ancestor.stride == wanted:
                return ancestor
        if wanted == level.stride:
            return level
        return refuse(
            "CoordinateManager.finer: level",
            f"made from sites at tensor stride {wanted} that the manager knows",
            f"one at stride {level.stride} without such an ancestor",
            "Pass target= (a tensor with the wanted sites); a transposed convolution can also "
            "create them with generative=True.",
        )

    def kernel_map(self, fine: Level, coarse: Level, geometry: ConvGeometry) -> KernelMap:
        """The pairs from ``fine`` sites (inputs) to ``coarse`` sites (outputs).

        For a transposed convolution take ``.transposed`` of it.
        """
        fine.check_unchanged()
        coarse.check_unchanged()
        known = self._maps.setdefault(fine, WeakKeyDictionary()).setdefault(coarse, {})
        if geometry not in known and geometry.taps is not None:
            whole = self.kernel_map(fine, coarse, geometry.whole)
            with scope("map"):
                known[geometry] = whole.select(geometry.taps)
        elif geometry not in known:
            is_same = fine is coarse and geometry.is_same
            with scope("map"):
                known[geometry] = (
                    self._same_map(fine, geometry) if is_same else self._map(fine, coarse, geometry)
                )
        return known[geometry]

    def submanifold(self, level: Level, geometry: ConvGeometry) -> KernelMap:
        """The map whose outputs are its inputs' sites."""
        return self.kernel_map(level, level, geometry)

    def __repr__(self) -> str:
        by_coarse = [maps for by_fine in self._maps.values() for maps in by_fine.items()]
        levels = {*self._maps, *(coarse for coarse, _ in by_coarse), *self._made_from}
        count = sum(len(maps) for _, maps in by_coarse)
        return f"CoordinateManager({len(levels)} levels, {count} kernel maps)"

    def _ancestors(self, level: Level) -> Iterator[Level]:
        while level in self._made_from:
            level = self._made_from[level]
            yield level

    def _finer(self, level: Level) -> dict[Triple, Level]:
        """The nearest ancestor at each tensor stride that is finer than that of ``level``."""
        finer: dict[Triple, Level] = {}
        for ancestor in self._ancestors(level):
            if _is_finer(ancestor.stride, level.stride):
                finer.setdefault(ancestor.stride, ancestor)
        return finer

    def _keep(self, parent: Level, coords: Tensor, stride: Triple, shape: Triple | None) -> Level:
        cells = parent.__dict__.get("cells")
        if cells is not None and coords is cells.level.coords and shape is None:
            level: Level = cells.level
        else:
            level = parent.like(coords, is_morton=True, stride=stride, spatial_shape=shape)
        self._made_from[level] = parent
        return level

    def _descends(self, level: Level) -> bool:
        return self._search == "auto" and level.is_morton

    def _halves(self, level: Level, geometry: ConvGeometry, rule: str) -> bool:
        """Whether the output sites are the pyramid's next level."""
        is_halving = geometry == HALVING or (rule == "cell" and geometry.stride == HALVING.stride)
        is_clipped = level.spatial_shape is not None and (
            geometry != HALVING or any(extent % 2 for extent in level.spatial_shape)
        )
        return self._descends(level) and is_halving and not is_clipped

    def _same_map(self, level: Level, geometry: ConvGeometry) -> KernelMap:
        count = len(level)
        if geometry.kernel_volume == 1:
            return KernelMap.identity(count, level.coords.device, geometry)
        if self._descends(level) and geometry == CUBE:
            neighbors = level.cube_neighbors
        else:
            neighbors = level.search_same(geometry)
        return KernelMap.from_neighbors(
            neighbors,
            geometry,
            num_in=count,
            is_symmetric=all(size % 2 == 1 for size in geometry.kernel_size),
            full_tap=geometry.identity_tap,
            has_room=level.sizes.is_fixed,
        )

    def _map(self, fine: Level, coarse: Level, geometry: ConvGeometry) -> KernelMap:
        has_room = fine.sizes.is_fixed
        cells = fine.__dict__.get("cells")
        if cells is not None and geometry == HALVING and coarse.coords is cells.level.coords:
            mask, ptr = cells.child_mask.to(torch.int32).unsqueeze(1), cells.child_ptr.long()
            rows = torch.arange(len(fine), dtype=torch.int32, device=ptr.device)
            neighbors = NeighborTable(mask, ptr, rows)
            return KernelMap.from_neighbors(
                neighbors, geometry, num_in=len(fine), has_room=has_room
            )
        if _windows_per_site(geometry) * len(fine) < geometry.kernel_volume * len(coarse):
            neighbors = fine.search(coarse, geometry, inverse=True)
            return KernelMap.from_neighbors(
                neighbors, geometry, num_in=len(coarse), has_room=has_room
            ).transposed
        neighbors = coarse.search(fine, geometry)
        return KernelMap.from_neighbors(neighbors, geometry, num_in=len(fine), has_room=has_room)


def _windows_per_site(geometry: ConvGeometry) -> int:
    """How many coarse windows can hold one fine site, at most.

    Taps through which a site is seen are ``stride / gcd(stride, dilation)`` apart.
    """
    kernel_size, stride, dilation, _ = geometry.triples
    apart = (s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))
    return math.prod(-(-k // a) for k, a in zip(kernel_size, apart, strict=True))


def _sites_per_site(geometry: ConvGeometry, rule: str) -> int:
    """How many coarse sites one fine site makes, at most."""
    return 1 if rule == "cell" else _windows_per_site(geometry)


def _is_finer(a: Triple, b: Triple) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _times(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def _over(stride: Triple, by: Triple) -> Triple:
    if any(s % b for s, b in zip(stride, by, strict=True)):
        refuse(
            "CoordinateManager: stride",
            f"a divisor of the tensor stride {stride} on the way to finer sites",
            by,
            "Give the input its tensor stride, SparseTensor(..., stride=), or use another stride.",
        )
    return stride[0] // by[0], stride[1] // by[1], stride[2] // by[2]
