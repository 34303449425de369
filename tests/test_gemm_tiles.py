# SPDX-License-Identifier: MIT
"""Which tile implicit GEMM takes: the rule, the table, and what is wrong with a table."""

from __future__ import annotations

import json

import pytest
import torch
from house_form import provoke

from torchsparse_lite._native import C
from torchsparse_lite.ops import gemm_tiles
from torchsparse_lite.ops.gemm_tiles import (
    _OWN,
    layer_key,
    read_tiles,
    tile_by_rule,
    tile_for,
    write_tiles,
)

TILES = C.gemm_tiles()
KEY = "half 27x96x128@15"


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


def test_layers_are_named_by_type_weight_and_the_logarithm_of_their_rows():
    assert layer_key(torch.float16, (27, 96, 128), 32768) == KEY
    assert layer_key(torch.bfloat16, (27, 96, 128), 65535) == KEY
    assert layer_key(torch.float32, (27, 96, 128), 65535) == "tf32 27x96x128@15"
    assert layer_key(torch.float16, torch.zeros(8, 4, 32).shape, 0) == "half 8x4x32@0"


def test_a_table_is_read(tmp_path):
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"sm_87": {KEY: "128x64"}}))
    assert read_tiles(str(path)) == {"sm_87": {KEY: (128, 64)}}
    read_tiles(str(_OWN))


@pytest.fixture
def on_an_orin(monkeypatch):
    monkeypatch.setattr(gemm_tiles, "gpu_of", lambda index: ("sm_87", 16))


@pytest.mark.usefixtures("on_an_orin")
def test_what_is_written_is_read_and_chosen(tmp_path, monkeypatch):
    """By the type and the whole shape; all other layers, types and machines follow the rule."""
    path = tmp_path / "new" / "tiles.json"
    rule = tile_by_rule(TILES, 128, 40000, 16)
    other = next(tile for tile in TILES if tile != rule)
    write_tiles(path, "sm_87", {KEY: other})
    write_tiles(path, "sm_90", {KEY.replace("half", "tf32"): other})
    monkeypatch.setenv("TSL_GEMM_TILES", str(path))

    def chosen(dtype=torch.float16, volume=27, in_channels=96, rows=40000):
        feats = torch.zeros(3, in_channels, dtype=dtype)
        return TILES[tile_for(feats, volume, 128, rows)]

    assert chosen() == chosen(torch.bfloat16) == other
    assert chosen(torch.float32) == chosen(volume=8) == chosen(in_channels=64) == rule
    assert chosen(rows=200000) == tile_by_rule(TILES, 128, 200000, 16)
    write_tiles(path, "sm_87", {KEY: rule})  # what was read before is not remembered
    assert chosen() == rule


def test_writing_keeps_what_is_there(tmp_path):
    path = tmp_path / "tiles.json"
    write_tiles(path, "sm_87", {})
    assert json.loads(path.read_text()) == {}
    write_tiles(path, "sm_87", {KEY: (64, 32), "tf32 8x4x32@3": (64, 64)})
    write_tiles(path, "sm_90", {KEY: (128, 64)})
    write_tiles(path, "sm_87", {KEY: (128, 32)})
    assert json.loads(path.read_text()) == {
        "sm_87": {KEY: "128x32", "tf32 8x4x32@3": "64x64"},
        "sm_90": {KEY: "128x64"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sm_87": {"half 27x96x128@15": "100x64"}}', ["one of 64x32, ", "got 100x64", "--tune"]),
        ('{"sm_87": {"half 27x96x128@15": ["64x32"]}}', ["table of tiles", "TypeError"]),
        ('{"sm_87": {"96x128@15": "128x64"}}', ["layer in", "as 'half 27x96x128@15'", "96x128@15"]),
        ('{"sm_87": "128x64"}', ["a table of tiles", "AttributeError"]),
        ("[]", ["a table of tiles", "AttributeError"]),
        ("", ["a table of tiles", "JSONDecodeError"]),
    ],
)
def test_wrong_tables_are_refused_and_not_written_over(tmp_path, text, words):
    path = tmp_path / "tiles.json"
    path.write_text(text)
    for call in (lambda: read_tiles(str(path)), lambda: write_tiles(path, "sm_87", {})):
        provoke(ValueError, [path, *words], call)
    assert path.read_text() == text


def test_bytes_are_no_table(tmp_path):
    path = tmp_path / "tiles.json"
    path.write_bytes(b"\xff\xfe\x00")
    provoke(ValueError, ["a table of tiles", "UnicodeDecodeError"], lambda: read_tiles(str(path)))


def test_a_table_that_is_not_there_and_one_that_cannot_be_written(tmp_path):
    missing = str(tmp_path / "none.json")
    provoke(FileNotFoundError, [missing, "a file", "--tune"], lambda: read_tiles(missing))
    (tmp_path / "folder" / "in_the_way").mkdir(parents=True)
    for path in (tmp_path / "folder", tmp_path / "folder" / "in_the_way"):
        provoke(OSError, [path, "writable"], lambda path=path: write_tiles(path, "sm_87", {}))
