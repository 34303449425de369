# SPDX-License-Identifier: MIT
"""Which tile implicit GEMM takes: from a table of what was measured, or else by a rule.

The table that comes with the library is ``gemm_tiles.json``; ``TSL_GEMM_TILES`` names another one,
such as ``tsl benchmark --tune`` writes for the machine at hand. By architecture ("sm_87") it says
for layers which tile was the fastest ("128x64": rows, channels). A layer ("half 27x96x128@15") is
the type, the shape of the weight (taps, input channels, output channels) and the binary logarithm
of the output rows. float16 and bfloat16 are one type, "half", since tensor cores take them at one
speed; "tf32" reads twice the bytes and multiplies at half the speed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from torchsparse_lite._native import C
from torchsparse_lite.errors import refuse
from torchsparse_lite.whole_file import write_whole

__all__ = ["gpu_of", "layer_key", "read_tiles", "tile_by_rule", "tile_for", "write_tiles"]

_OWN = Path(__file__).with_name("gemm_tiles.json")
_OUT_BLOCK = 32
_TILES_PER_PROCESSOR = 2
_TYPES = {torch.float16: "half", torch.bfloat16: "half", torch.float32: "tf32"}
_KEY = re.compile(rf"({'|'.join(sorted(set(_TYPES.values())))}) \d+x\d+x\d+@\d+")
_MEASURE_AGAIN = "Remove the file and measure it again: tsl benchmark --tune FILE."
Tile = tuple[int, int]


def layer_key(dtype: torch.dtype, weight_shape: Sequence[int], rows: int) -> str:
    """How the table names a layer.

    Args:
        dtype: float16, bfloat16 or float32.
        weight_shape: kernel_volume, in_channels, out_channels.
        rows: of its output; they count by their binary logarithm, rounded down.
    """
    shape = "x".join(str(extent) for extent in weight_shape)
    return f"{_TYPES[dtype]} {shape}@{max(rows, 1).bit_length() - 1}"


def tile_for(feats: Tensor, kernel_volume: int, out_channels: int, rows: int) -> int:
    """Number of the tile among ``C.gemm_tiles()``.

    Args:
        feats: (num_in, in_channels) on CUDA.
        kernel_volume: taps of the convolution.
        out_channels: of the convolution.
        rows: of its output.
    """
    arch, processors = gpu_of(feats.get_device())
    table = read_tiles(os.environ.get("TSL_GEMM_TILES") or str(_OWN))
    key = layer_key(feats.dtype, (kernel_volume, feats.shape[1], out_channels), rows)
    known = table.get(arch, {}).get(key)
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
        ValueError: it is no table, or it names a layer or a tile in a way that is not known.
    """
    if not Path(path).is_file():
        remedy = "Write one: tsl benchmark --tune FILE, or unset TSL_GEMM_TILES."
        refuse("gemm_tiles: table", "a file", path, remedy, error=FileNotFoundError)
    try:
        return {
            arch: {_known_layer(path, key): _known_tile(path, name) for key, name in layers.items()}
            for arch, layers in json.loads(Path(path).read_text()).items()
        }
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as wrong:
        remedy = "Remove it or take another FILE, then: tsl benchmark --tune FILE."
        refuse(f"gemm_tiles: {path}", "a table of tiles", repr(wrong), remedy)


def write_tiles(path: str | Path, arch: str, layers: Mapping[str, Tile]) -> None:
    """Write a table, or add to the one that is there.

    Args:
        path: of the file. What it says of other architectures and other layers stays.
        arch: architecture, such as "sm_87".
        layers: tile by :func:`layer_key`.

    Raises:
        ValueError: the file that is there is no table.
        OSError: it could not be written; an earlier file is as it was.
    """
    path = Path(path)
    read_tiles.cache_clear()  # what it remembers is of before
    table = dict(read_tiles(str(path))) if path.is_file() else {}
    table[arch] = {**table.get(arch, {}), **layers}
    content = {
        name: {key: f"{rows}x{channels}" for key, (rows, channels) in sorted(known.items())}
        for name, known in sorted(table.items())
        if known
    }
    write_whole("gemm_tiles", path, (json.dumps(content, indent=1) + "\n").encode())
    read_tiles.cache_clear()


def _known_layer(path: str, key: str) -> str:
    if not _KEY.fullmatch(key):
        rule = "as 'half 27x96x128@15'"
        refuse(f"gemm_tiles: layer in {path}", rule, repr(key), _MEASURE_AGAIN)
    return key


def _known_tile(path: str, name: str) -> Tile:
    known = {f"{rows}x{channels}": (rows, channels) for rows, channels in _tiles()}
    if name not in known:
        rule = f"one of {', '.join(known)}"
        refuse(f"gemm_tiles: tile in {path}", rule, name, _MEASURE_AGAIN)
    return known[name]


@lru_cache(maxsize=1)
def _tiles() -> list[Tile]:
    return list(C.gemm_tiles())


@lru_cache(maxsize=64)
def gpu_of(index: int) -> tuple[str, int]:
    """Architecture and number of multiprocessors of a GPU by its number."""
    properties = torch.cuda.get_device_properties(index)
    return f"sm_{properties.major}{properties.minor}", properties.multi_processor_count
