# SPDX-License-Identifier: MIT
"""Cards: complete, true to the published tables, and strict about what they do not know."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from torchsparse_lite import data
from torchsparse_lite.data import cards


@pytest.mark.parametrize("name", data.card_names())
def test_card_is_complete(name):
    card = data.load_card(name)
    assert card.name == name
    for text in (card.title, card.licence, card.source, card.units):
        assert len(text) > 5
    assert len(card.classes) == len(card.colors) == len(card.raw_ids) == card.num_classes
    for color in card.colors:
        assert len(color) == 3
        assert all(0 <= value <= 255 for value in color)
    if card.classes:
        assert len(set(card.colors)) == card.num_classes, "two classes look alike"
        assert set(card.label_maps["official"].values()) - {None} == set(card.classes)
        train = np.arange(card.num_classes)
        np.testing.assert_array_equal(card.to_train(card.to_raw(train)), train)
    assert all(0 <= n < card.num_classes for group in card.groups.values() for n in group)
    assert set(card.views) <= {"top", "range", "side"}
    assert name in repr(card)


def test_semantickitti_is_the_published_table():
    """Ids and order of section 2.8 of the survey of SPVNAS; colours of semantic-kitti-api."""
    card = data.load_card("semantickitti")
    names = (
        "car bicycle motorcycle truck other-vehicle person bicyclist motorcyclist road parking "
        "sidewalk other-ground building fence vegetation trunk terrain pole traffic-sign"
    )
    assert card.classes == tuple(names.split())
    assert card.colors[0] == (100, 150, 245)
    assert card.colors[8] == (255, 0, 255)
    raw = np.array([0, 1, 52, 99, 10, 252, 13, 257, 16, 256, 60, 40, 253, 254, 255, 258, 259])
    official = [255] * 4 + [0, 0, 4, 4, 4, 4, 8, 8, 6, 5, 7, 3, 4]
    spvnas = [255] * 4 + [0, 0] + [255] * 5 + [8, 6, 5, 7, 3, 4]
    assert card.to_train(raw).tolist() == official
    assert card.to_train(raw, "spvnas").tolist() == spvnas
    assert card.to_raw(np.array([0, 8, 18, 255])).tolist() == [10, 40, 81, 0]
    assert card.to_raw(np.array([0])).dtype == np.uint32


def test_empty_arrays_are_legal():
    card = data.load_card("semantickitti")
    assert len(card.to_train(np.empty(0, np.uint32))) == 0
    assert len(card.to_raw(np.empty(0, np.int64))) == 0


def test_a_card_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: mine\nlicence: free\nsource: here\nunits: metres\nlayout: {columns: [x, y, z, r]}\n"
        "classes:\n  - {name: a, color: [1, 2, 3], raw: 7}\n"
        "label_maps: {official: {7: a, 0: null}}\n"
    )
    card = data.load_card(path)
    assert card.to_train(np.array([7, 0])).tolist() == [0, 255]
    np.ones(4, np.float32).tofile(tmp_path / "s.bin")
    assert data.ScanFolder(tmp_path, card=path, has_labels=False)[0].name == "s"


def test_cards_lie_where_the_wheel_puts_them(tmp_path, monkeypatch):
    """The folder inside the package is looked at first; the source tree's is the other place."""
    package = cards._FOLDERS[0].parent
    assert list(cards._FOLDERS) == [package / "datasets", package.parent / "datasets"]
    inside = tmp_path / "datasets"
    inside.mkdir()
    (inside / "only.yaml").write_text("title: t\nlicence: l\nsource: s\nunits: u\n")
    monkeypatch.setattr(cards, "_FOLDERS", (inside, tmp_path / "elsewhere"))
    assert data.card_names() == ["only"]
    assert data.load_card("only").num_classes == 0


def test_a_missing_package_names_its_extra(monkeypatch):
    def absent(name, *arguments):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(RuntimeError, match=r"torchsparse_lite\[data\]"):
        data.load_card("semantickitti")
