# SPDX-License-Identifier: MIT
"""Which tile implicit GEMM takes: the rule, the table, and what is wrong with a table."""

from __future__ import annotations

import json

import pytest

from torchsparse_lite._native import C
from torchsparse_lite.ops.gemm_tiles import _OWN, layer_key, read_tiles, tile_by_rule

TILES = C.gemm_tiles()


def test_tiles_differ():
    assert len(set(TILES)) == len(TILES)
    assert all(rows % 64 == 0 and channels % 32 == 0 for rows, channels in TILES)


@pytest.mark.parametrize(
    ("out_channels", "channels"),
    [(1, 32), (32, 32), (33, 64), (64, 64), (96, 96), (128, 128), (160, 32), (256, 128), (288, 96)],
)
def test_channels_of_a_tile_divide_those_of_the_layer(out_channels, channels):
    assert tile_by_rule(TILES, out_channels, 10**6, 16)[1] == channels


def test_tiles_are_low_where_there_are_few():
    """Two for each processor: 128 rows on an Orin, 64 in the deep levels on an H200."""
    for rows, processors, height in [(90000, 132, 128), (14439, 132, 64), (14439, 16, 128)]:
        assert tile_by_rule(TILES, 96, rows, processors)[0] == height
    assert tile_by_rule(TILES, 96, 0, 132)[0] == 64


def test_layers_are_named_by_the_logarithm_of_their_rows():
    assert layer_key(96, 128, 32768) == "96x128@15"
    assert layer_key(96, 128, 65535) == "96x128@15"
    assert layer_key(4, 32, 0) == "4x32@0"


def test_a_table_is_read(tmp_path):
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"sm_87": {"96x128@15": "128x64"}}))
    assert read_tiles(str(path)) == {"sm_87": {"96x128@15": (128, 64)}}
    read_tiles(str(_OWN))


def test_wrong_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gemm_tiles: table must be a file, got .*--tune"):
        read_tiles(str(tmp_path / "none.json"))
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"sm_87": {"96x128@15": "100x64"}}))
    with pytest.raises(ValueError, match=r"must be one of 64x32, .*, got 100x64"):
        read_tiles(str(path))
