# SPDX-License-Identifier: MIT
"""The most memory that a network needs at once, from its description and counts: no forward pass.

The network is walked in the order of its computation, with the sizes of what is alive: features
until all modules that were given them have returned, what is made of coordinates to the end.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.coordinates import CUBE
from torchsparse_lite.kernel_map import ConvGeometry
from torchsparse_lite.models.blocks import Block
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.nas.cost import ScanStatistics, counts_for
from torchsparse_lite.nn.window import Window
from torchsparse_lite.ops.hash_table import table_bytes
from torchsparse_lite.ops.pairs import tile_rows

__all__ = ["peak_memory"]

# Bytes of a float32, an int32, an int64 and of a row of coordinates.
_FLOAT, _INT, _LONG, _COORDS = 4, 4, 8, 16
_CORNERS = 8
_POINTS = -1  # stands for a level


def peak_memory(network: nn.Module, statistics: Sequence[ScanStatistics]) -> int:
    """Bytes of all tensors at the worst moment of inference on the mean scan, on the CPU.

    The network is fused and computes in float32; the scan is new to it. Counted are weights, the
    scan, features of voxels and points, coordinates, hash tables, kernel maps, and the voxels
    around each point. Not counted is what C++ takes for the time of one operator, and what the C
    library keeps of freed memory, which can be a third of the resident set.

    Args:
        network: an SPVCNN, not fused; its weights may be on the meta device.
        statistics: for several voxel sizes, that of the network among them.

    Raises:
        TypeError: it is another network.
        ValueError: its voxel size was not counted, or fewer levels than it has.
    """
    network = as_spvcnn("peak_memory", network)
    walk = _Walk(network, counts_for("peak_memory", network, statistics))
    walk.forward()
    return round(walk.peak)


class _Maps:
    """What is made of coordinates: each when it is first needed, and kept.

    Attributes:
        bytes: of all that there is so far.
    """

    def __init__(self, counts: ScanStatistics) -> None:
        self._counts = counts
        self._known: set[Hashable] = set()
        # Cells, voxels and order of the points; voxels and where the points of each begin.
        of_points = counts.points * (_COORDS + _LONG + _LONG)
        self.bytes = of_points + float(counts.voxels[0]) * (_COORDS + _LONG)

    def _is_new(self, *key: Hashable) -> bool:
        is_new = key not in self._known
        self._known.add(key)
        return is_new

    def convolution(self, window: Window, level: int) -> int:
        """The kernel map of a convolution of this level; returns the level of its outputs."""
        voxels, geometry = self._counts.voxels, window.geometry
        if window.transposed:
            out = level - 1
            if self._is_new("up", level):
                self.bytes += voxels[out] * 2 * _INT
        elif window.submanifold:
            out = level
            self._same(level, geometry)
        else:
            out = level + 1
            self._cells(level)
            if self._is_new("down", level):
                self.bytes += voxels[level] * 3 * _INT + voxels[out] * (_INT + _LONG)
        if self._is_new("tiles", level, out, geometry):
            rows = round(voxels[out])
            tiles = -(-rows // tile_rows(rows)) + 1
            self.bytes += tiles * geometry.kernel_volume * _LONG
        return out

    def _same(self, level: int, geometry: ConvGeometry) -> None:
        if not self._is_new("same", level, geometry):
            return
        voxels, volume = self._counts.voxels[level], geometry.kernel_volume
        if volume == 1:
            self.bytes += voxels * _INT
            return
        pairs = self._counts.pairs(level, geometry.offsets)
        self.bytes += pairs * 2 * _INT
        if geometry.taps is not None:
            self._same(level, geometry.whole)
        elif geometry == CUBE:
            self._cube_neighbors(level)
        else:
            self.table(level)
            self.bytes += _neighbor_bytes(voxels, volume, pairs)

    def _cube_neighbors(self, level: int) -> None:
        """They are found from those of the coarser levels, of which the uncounted are small."""
        for coarser in range(level, len(self._counts.voxels)):
            self._cells(coarser)
            if self._is_new("cube", coarser):
                pairs = self._counts.pairs(coarser, CUBE.offsets)
                voxels = self._counts.voxels[coarser]
                self.bytes += _neighbor_bytes(voxels, CUBE.kernel_volume, pairs)

    def _cells(self, level: int) -> None:
        """The next coarser level, with the parents of this one's voxels."""
        voxels = self._counts.voxels
        if level + 1 < len(voxels) and self._is_new("cells", level):
            self.bytes += voxels[level] * _INT + voxels[level + 1] * (_COORDS + _INT + 1)

    def table(self, level: int) -> None:
        """The hash table."""
        if self._is_new("table", level):
            self.bytes += table_bytes(round(self._counts.voxels[level]))

    def batch(self, level: int) -> None:
        """Rows by batch element."""
        if self._is_new("batch", level):
            self.bytes += self._counts.voxels[level] * _LONG

    def corners(self, level: int) -> float:
        """The voxels around each point; returns bytes that finding them takes besides."""
        points = self._counts.points
        self.table(level)
        if not self._is_new("corners", level):
            return 0.0
        self.bytes += points * _CORNERS * (_LONG + _FLOAT)
        if not level:
            return 0.0
        self.bytes += points * _LONG  # the voxel that holds each point
        return points * _COORDS

    def segments(self, level: int) -> None:
        """Where the points of each voxel begin."""
        if level and self._is_new("segments", level):
            self.bytes += self._counts.voxels[level] * _LONG


def _neighbor_bytes(voxels: float, kernel_volume: int, pairs: float) -> float:
    """Of a :class:`~torchsparse_lite.kernel_map.NeighborTable`."""
    words = -(-kernel_volume // 32)
    return voxels * (words * _INT + _LONG) + pairs * _INT


@dataclass(frozen=True, eq=False)
class _Feats:
    """Features of the voxels of a level, or of the points; compared by identity."""

    level: int
    channels: int
    bytes: float


class _Walk:
    """The forward pass of a fused SPVCNN, on sizes.

    What a method is given as ``held`` is alive while it runs, as its input is.

    Attributes:
        peak: bytes at the worst moment so far.
    """

    def __init__(self, network: SPVCNN, counts: ScanStatistics) -> None:
        self.peak = 0.0
        self._network = network
        self._counts = counts
        self._maps = _Maps(counts)
        self._fixed = _weight_bytes(network) + counts.points * _COORDS
        stem = next(m for m in network.unet.stem.modules() if isinstance(m, spnn.Conv3d))
        # Features of the points, alive throughout: the scan's, as they enter, and those of now.
        self._scan = self._input = self._z = self._feats(_POINTS, int(stem.in_channels))

    def _feats(self, level: int, channels: int) -> _Feats:
        rows = self._counts.points if level == _POINTS else float(self._counts.voxels[level])
        return _Feats(level, channels, rows * channels * _FLOAT)

    def _touch(self, alive: Iterable[_Feats], besides: float = 0.0) -> None:
        """A moment, with bytes that are gone right after it."""
        feats = {*alive, self._scan, self._input, self._z}
        now = self._fixed + self._maps.bytes + sum(x.bytes for x in feats) + besides
        self.peak = max(self.peak, now)

    def _make(self, level: int, channels: int, *alive: _Feats, besides: float = 0.0) -> _Feats:
        made = self._feats(level, channels)
        self._touch((*alive, made), besides)
        return made

    def forward(self) -> None:
        """As in :class:`SPVCNN`."""
        self._input = self._z = self._run(self._network.input, self._scan)
        self._unet()
        self._run(self._network.classifier, self._z)

    def _unet(self) -> None:
        unet = self._network.unet
        x = self._make(0, self._input.channels)
        skips = [self._run(unet.stem, x)]
        x = self._meet(0, skips[0], x)
        for number, down in enumerate(unet.down, 1):
            y = self._run(down.get_submodule("transition"), x, *skips)
            skips.append(self._run(down.get_submodule("blocks"), y, x, *skips))
            x = self._meet(number, skips[-1], x, *skips)
        skips.pop()
        for number, up in enumerate(unet.up, 1 + len(unet.down)):
            y = self._run(up.get_submodule("transition"), x, *skips)
            channels = y.channels + skips[-1].channels
            y = self._make(y.level, channels, y, x, *skips)
            y = self._run(up.get_submodule("blocks"), y, x, *skips)
            skips.pop()
            x = self._meet(number, y, x, *skips)

    def _meet(self, stage: int, x: _Feats, *held: _Feats) -> _Feats:
        meetings = self._network.meetings
        if stage not in meetings:
            return x
        held = (x, *held)
        self._touch(held, self._maps.corners(x.level))
        feats = self._make(_POINTS, x.channels, *held)
        if stage != meetings[0]:
            before = meetings[meetings.index(stage) - 1]
            branch = self._run(self._network.points[f"{before}_{stage}"], self._z, feats, *held)
            feats = self._make(_POINTS, x.channels, feats, branch, *held)
        self._z = feats
        if stage == meetings[-1]:
            return x
        self._maps.segments(x.level)
        return self._make(x.level, x.channels, *held)

    def _run(self, module: nn.Module, x: _Feats, *held: _Feats) -> _Feats:
        if isinstance(module, nn.Sequential):
            return self._sequence(module, x, *held)
        if isinstance(module, Block):
            return self._block(module, x, *held)
        if isinstance(module, spnn.Conv3d):
            level = self._maps.convolution(module.window, x.level)
            return self._make(level, module.out_channels, x, *held)
        if isinstance(module, spnn.SqueezeExcitation):
            self._maps.batch(x.level)
            scale = self._make(x.level, x.channels, x, *held)
            return self._make(x.level, x.channels, scale, x, *held)
        if isinstance(module, nn.Linear):
            # It is a convolution, whose map is not kept.
            identity = self._counts.points * _INT
            return self._make(_POINTS, module.out_features, x, *held, besides=identity)
        if isinstance(module, (nn.BatchNorm1d, nn.ReLU)):
            return self._make(x.level, x.channels, x, *held)
        return x  # an identity, or dropout

    def _sequence(self, layers: nn.Sequential, x: _Feats, *held: _Feats) -> _Feats:
        y, last = x, None
        for layer in layers:
            if isinstance(last, spnn.Conv3d) and isinstance(layer, (nn.BatchNorm1d, nn.ReLU)):
                continue  # it joins the convolution's pass
            y, last = self._run(layer, y, x, *held), layer
        return y

    def _block(self, block: Block, x: _Feats, *held: _Feats) -> _Feats:
        """The shortcut joins the pass of the last convolution, so it comes before that."""
        *parts, last = (block.get_submodule(name) for name in block.parts)
        *lines, conv = (m for m in last.children() if isinstance(m, spnn.Conv3d))
        y = x
        for part in (*parts, *lines):
            y = self._run(part, y, x, *held)
        shortcut = self._run(block.shortcut, x, y, *held)
        return self._run(conv, y, shortcut, x, *held)


def _weight_bytes(network: SPVCNN) -> int:
    """Once it is fused: of a norm behind a convolution the bias remains."""
    weights = chain(network.parameters(), network.buffers())
    norms = (m for m in network.unet.modules() if isinstance(m, nn.BatchNorm1d))
    gone = sum(3 * _FLOAT * norm.num_features + _LONG for norm in norms)
    return sum(weight.numel() * weight.element_size() for weight in weights) - gone
