# SPDX-License-Identifier: MIT
"""Which tile implicit GEMM takes: from a table of what was measured, or else by a rule.

The table that comes with the library is ``gemm_tiles.json``; ``TSL_GEMM_TILES`` names another one,
such as ``tsl benchmark --tune`` writes for the machine at hand. By architecture ("sm_87") it says
for layers ("96x128@15": input channels, output channels, binary logarithm of the rows) which tile
was the fastest ("128x64": rows, channels).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from torchsparse_lite._native import C
from torchsparse_lite.errors import refuse

__all__ = ["layer_key", "read_tiles", "tile_by_rule", "tile_for"]

_OWN = Path(__file__).with_name("gemm_tiles.json")
_OUT_BLOCK = 32
_TILES_PER_PROCESSOR = 2
Tile = tuple[int, int]


def layer_key(in_channels: int, out_channels: int, rows: int) -> str:
    """How the table names a layer: rows count by their binary logarithm, rounded down."""
    return f"{in_channels}x{out_channels}@{max(rows, 1).bit_length() - 1}"


def tile_for(feats: Tensor, out_channels: int, rows: int) -> int:
    """Number of the tile among ``C.gemm_tiles()``.

    Args:
        feats: (num_in, in_channels) on CUDA.
        out_channels: of the convolution.
        rows: of its output.
    """
    arch, processors = _device(feats.get_device())
    table = read_tiles(os.environ.get("TSL_GEMM_TILES") or str(_OWN))
    known = table.get(arch, {}).get(layer_key(feats.shape[1], out_channels, rows))
    tiles = _tiles()
    return tiles.index(known or tile_by_rule(tiles, out_channels, rows, processors))


def tile_by_rule(tiles: Sequence[Tile], out_channels: int, rows: int, processors: int) -> Tile:
    """As many channels as divide the layer's evenly; many rows, if there are tiles for all.

    Args:
        tiles: rows and channels of those that there are.
        out_channels: of the convolution.
        rows: of its output.
        processors: multiprocessors of the GPU.
    """
    blocks = -(-out_channels // _OUT_BLOCK)
    widest = max(c for _, c in tiles if blocks % (c // _OUT_BLOCK) == 0)
    heights = sorted(height for height, channels in tiles if channels == widest)
    across = -(-out_channels // widest)
    fitting = [
        height
        for height in heights
        if -(-rows // height) * across >= _TILES_PER_PROCESSOR * processors
    ]
    return max(fitting, default=heights[0]), widest


@lru_cache(maxsize=8)
def read_tiles(path: str) -> Mapping[str, Mapping[str, Tile]]:
    """A table from its file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it names a tile that there is none of.
    """
    if not Path(path).is_file():
        remedy = "Write one: tsl benchmark --tune FILE, or unset TSL_GEMM_TILES."
        refuse("gemm_tiles: table", "a file", path, remedy, error=FileNotFoundError)
    table = {
        arch: {key: _parsed(path, name) for key, name in layers.items()}
        for arch, layers in json.loads(Path(path).read_text()).items()
    }
    return table


def _parsed(path: str, name: str) -> Tile:
    known = {f"{rows}x{channels}": (rows, channels) for rows, channels in _tiles()}
    if name not in known:
        remedy = "Measure it again: tsl benchmark --tune FILE."
        refuse(f"gemm_tiles: tile in {path}", f"one of {', '.join(known)}", name, remedy)
    return known[name]


@lru_cache(maxsize=1)
def _tiles() -> list[Tile]:
    return list(C.gemm_tiles())


@lru_cache(maxsize=64)
def _device(index: int) -> tuple[str, int]:
    """Architecture and number of multiprocessors."""
    properties = torch.cuda.get_device_properties(index)
    return f"sm_{properties.major}{properties.minor}", properties.multi_processor_count
