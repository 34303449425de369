# SPDX-License-Identifier: MIT
"""Which tile of implicit GEMM is the fastest, measured: what the table in ``gemm_tiles`` is from.

The convolutions are those that a network runs, over its own kernel maps, since a tile's time
depends on how the rows share their taps. Features and weights are random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchsparse_lite._native import C
from torchsparse_lite.errors import refuse
from torchsparse_lite.ops import gemm
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.gemm_tiles import Tile, layer_key, tile_by_rule
from torchsparse_lite.ops.map_arrays import MapArrays
from torchsparse_lite.timing import Times

__all__ = [
    "Convolution",
    "TableLayer",
    "Tuned",
    "convolutions_of",
    "on_tensor_cores",
    "table_layers",
    "tune",
]

_DTYPES = (torch.float16, torch.float32)  # stands for TF32
Measure = Callable[[Mapping[str, Callable[[], object]]], Mapping[str, Times]]
"""From calls by name to their times, as :func:`~torchsparse_lite.timing.race` does."""
Prepare = Callable[["Convolution", torch.dtype], Callable[[int], object]]
"""From a convolution and a type to what runs it with the tile of a number."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """What a network convolves, without its numbers.

    Attributes:
        weight_shape: kernel_volume, in_channels, out_channels.
        num_in: input rows.
        num_out: output rows.
        arrays: of its kernel map.
        calls: how often it occurs.
    """

    weight_shape: tuple[int, int, int]
    num_in: int
    num_out: int
    arrays: MapArrays
    calls: int = 1


@dataclass(frozen=True, eq=False)
class TableLayer:
    """What is one line of the table.

    Attributes:
        dtype: that it is measured in.
        convolutions: all of its name, one for each kernel map.
    """

    dtype: torch.dtype
    convolutions: tuple[Convolution, ...]

    @property
    def key(self) -> str:
        """Its name."""
        first = self.convolutions[0]
        return layer_key(self.dtype, first.weight_shape, first.num_out)


@dataclass(frozen=True)
class Tuned:
    """The fastest tile of a line of the table.

    Attributes:
        key: of the line.
        tile: the fastest.
        ms: of all its convolutions, each as often as it occurs.
        by_rule: the tile of :func:`tile_by_rule`; of several convolutions, for the first.
        by_rule_ms: milliseconds with what the rule says for each.
    """

    key: str
    tile: Tile
    ms: float
    by_rule: Tile
    by_rule_ms: float


def convolutions_of(run: Callable[[], object]) -> list[Convolution]:
    """What is convolved while ``run`` runs and tensor cores can compute, linear layers included.

    Args:
        run: calls networks, on any device.
    """
    with _Watch() as watch:
        run()
    found: dict[tuple[Any, ...], Convolution] = {}
    counts: Counter[tuple[Any, ...]] = Counter()
    for convolution in watch.seen:
        pairs = convolution.arrays.lists.in_index.shape[0]
        same = (convolution.weight_shape, convolution.num_in, convolution.num_out, pairs)
        found.setdefault(same, convolution)
        counts[same] += 1
    return [replace(convolution, calls=counts[same]) for same, convolution in found.items()]


class _Watch(TorchDispatchMode):
    """Notes the convolutions in one group that pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Convolution] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the operator."""
        if func is torch.ops.tsl.sparse_conv.default:
            call = ConvCall(*args)
            if call.groups == 1:
                num_in, in_channels = call.feats.shape
                shape = call.weight.shape[0], in_channels, call.out_channels
                self.seen.append(Convolution(shape, num_in, call.num_out, MapArrays.of(call.pairs)))
        return func(*args, **(kwargs or {}))


def table_layers(convolutions: Iterable[Convolution]) -> list[TableLayer]:
    """The lines of the table that the convolutions make, in halves and in TF32."""
    lines: dict[tuple[torch.dtype, str], list[Convolution]] = {}
    for dtype in _DTYPES:
        for convolution in convolutions:
            key = layer_key(dtype, convolution.weight_shape, convolution.num_out)
            lines.setdefault((dtype, key), []).append(convolution)
    return [TableLayer(dtype, tuple(members)) for (dtype, _), members in lines.items()]


def on_tensor_cores(convolution: Convolution, dtype: torch.dtype) -> Callable[[int], object]:
    """What runs it with the tile of a number, on random features and weights."""
    _, inputs, outputs = convolution.weight_shape
    view = convolution.arrays.view
    if view is None:
        refuse("tune_gemm: convolution", "one on a GPU", "one on the CPU", "Run the network there.")
    options: dict[str, Any] = {"dtype": dtype, "device": view.mask.device}
    feats = torch.randn(convolution.num_in, inputs, **options)
    packed = gemm.pack_weight(torch.randn(convolution.weight_shape, **options))
    return lambda tile: gemm.implicit_gemm(
        feats, packed, view.table, view.order, out_channels=outputs, tile=tile
    )


def tune(
    layer: TableLayer,
    *,
    processors: int,
    measure: Measure,
    prepare: Prepare = on_tensor_cores,
    tiles: Sequence[Tile] | None = None,
) -> Tuned:
    """Measure all tiles for a line of the table, and choose the one with the least time.

    Args:
        layer: the line.
        processors: multiprocessors of the GPU.
        measure: takes the times.
        prepare: makes what is timed.
        tiles: rows and channels of those that there are; by default ``C.gemm_tiles()``.

    Of tiles that take equally long it is that of the rule, or else the first.
    """
    tiles = list(C.gemm_tiles()) if tiles is None else tiles
    total = dict.fromkeys(tiles, 0.0)
    by_rule, by_rule_ms = [], 0.0
    for convolution in layer.convolutions:
        run = prepare(convolution, layer.dtype)
        times = measure({str(tile): partial(run, number) for number, tile in enumerate(tiles)})
        for tile in tiles:
            total[tile] += convolution.calls * times[str(tile)].median
        outputs = convolution.weight_shape[2]
        by_rule.append(tile_by_rule(tiles, outputs, convolution.num_out, processors))
        by_rule_ms += convolution.calls * times[str(by_rule[-1])].median
    best = min(tiles, key=lambda tile: (total[tile], tile != by_rule[0]))
    return Tuned(layer.key, best, total[best], by_rule[0], by_rule_ms)
