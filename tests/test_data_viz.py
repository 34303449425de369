# SPDX-License-Identifier: MIT
"""Pictures: what is where in them, every panel, and the window's errors."""

from __future__ import annotations

import importlib
import re
import types
from dataclasses import replace

import numpy as np
import pytest
import tiny_sets
from house_form import FORM

from torchsparse_lite import data, viz

CARD = data.load_card("semantickitti")
ROAD, CAR = CARD.classes.index("road"), CARD.classes.index("car")


def scan_of(xyz, labels=None):
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    labels = None if labels is None else np.asarray(labels, np.int64)
    return data.Scan(xyz, np.linspace(0, 1, len(xyz), dtype=np.float32), labels, name="00/000000")


def cloud(count=500, seed=0):
    rng = np.random.default_rng(seed)
    return scan_of(rng.uniform(-20, 20, (count, 3)), rng.choice([*range(19), 255], count))


def pixels(path):
    return importlib.import_module("matplotlib.image").imread(path)


def test_colors_are_the_cards():
    colors = viz.colors_of(np.array([CAR, ROAD, 255]), CARD)
    assert colors[0].tolist() == [100, 150, 245]
    assert colors[1].tolist() == [255, 0, 255]
    assert colors[2].tolist() not in [list(color) for color in CARD.colors]
    with pytest.raises(ValueError, match="19") as caught:
        viz.colors_of(np.array([19]), CARD)
    assert FORM.match(str(caught.value))


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("has_prediction", [True, False])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_every_combination_draws(tmp_path, has_labels, has_prediction, count):
    scan = cloud(count)
    prediction = np.roll(scan.labels, 1) % 19 if has_prediction else None
    shown = scan if has_labels else replace(scan, labels=None)
    path = viz.draw_scan(shown, CARD, tmp_path / "new" / "scan.png", prediction)
    image = pixels(path)
    assert image.shape[0] > 500
    assert image.shape[1] > (1500 if has_labels and has_prediction else 800)


@pytest.mark.parametrize("name", sorted(data.DATASETS))
def test_every_card_draws(tmp_path, name):
    written = tiny_sets.BUILDERS[name](tmp_path)
    opened = data.open_dataset(name, written.root, **written.options)
    path = viz.draw_scan(opened[0], opened.card, tmp_path / "scan.png")
    assert path.stat().st_size > 10_000


def test_class_colors_reach_the_picture(tmp_path):
    """A scan of one class has its colour; the error panel has red only where there are errors."""
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), [0]), -1)
    scan = scan_of(grid, np.full(1600, ROAD))
    magenta = np.array([1.0, 0.0, 1.0])
    image = pixels(viz.draw_scan(scan, CARD, tmp_path / "a.png"))[..., :3]
    share = (np.abs(image - magenta).max(-1) < 0.01).mean()
    assert share > 0.02
    red = np.array(viz._WRONG) / 255
    for prediction, expected in ((ROAD, False), (CAR, True)):
        path = viz.draw_scan(scan, CARD, tmp_path / "b.png", np.full(1600, prediction))
        image = pixels(path)[..., :3]
        assert (np.abs(image - red).max(-1) < 0.01).any() == expected


def test_ignored_points_are_no_error(tmp_path):
    scan = scan_of(np.random.default_rng(0).uniform(-9, 9, (300, 3)), np.full(300, 255))
    image = pixels(viz.draw_scan(scan, CARD, tmp_path / "a.png", np.full(300, CAR)))[..., :3]
    red = np.array(viz._WRONG) / 255
    assert not (np.abs(image - red).max(-1) < 0.01).any()


def test_range_image_by_hand():
    """Forward is in the middle, left of it what is to the left, near points cover far ones."""
    xyz = [(10, 0, 0), (5, 0, 0), (0, 10, 0), (0, -10, 0), (-10, 0.01, 0), (10, 0, -4)]
    colors = np.arange(1, 7, dtype=np.uint8)[:, None].repeat(3, 1)
    image = viz._range_image(scan_of(xyz), colors, CARD)
    rows, columns = 64, 1024
    assert image.shape == (rows, columns, 3)
    horizon = int(3 / 28 * rows)
    assert image[horizon, columns // 2, 0] == 2
    assert image[horizon, columns // 4, 0] == 3
    assert image[horizon, 3 * columns // 4, 0] == 4
    assert image[horizon, 0, 0] == 5
    low = int((3 + np.rad2deg(np.arctan(0.4))) / 28 * rows)
    assert image[low, columns // 2, 0] == 6


def test_view_from_above_by_hand():
    """x to the right, y up, the highest point in front."""
    xyz = np.array([(0, 0, 0), (10, 0, 0), (0, 10, 0), (0, 0, 5)], np.float32)
    colors = np.arange(1, 5, dtype=np.uint8)[:, None].repeat(3, 1)
    image, (left, right, bottom, top) = viz._view(*xyz.T, colors)
    assert left < 0.5 < 9.5 < right
    assert bottom < 0.5 < 9.5 < top
    found = {c: np.argwhere(image[..., 0] == c).mean(0) for c in (2, 3, 4)}
    assert 1 not in image[..., 0]  # behind the higher one
    assert found[2][1] > found[4][1]
    assert found[3][0] < found[4][0]


@pytest.mark.parametrize("draw", [viz.draw_scan, viz.show_scan])
def test_wrong_predictions(tmp_path, draw):
    path = [tmp_path / "a.png"] if draw is viz.draw_scan else []
    for prediction, words in ((np.zeros(3, np.int64), "(500,)"), (np.full(500, 77), "77")):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            draw(cloud(), CARD, *path, prediction=prediction)
        assert FORM.match(str(caught.value))


def test_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(RuntimeError, match="DISPLAY") as caught:
        viz.show_scan(cloud(), CARD)
    assert FORM.match(str(caught.value))
    assert "draw_scan" in str(caught.value)


@pytest.mark.parametrize("package", ["matplotlib", "open3d"])
def test_without_the_package(monkeypatch, tmp_path, package):
    def absent(name, *arguments):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(importlib, "import_module", absent)
    draw, path = viz.show_scan, []
    if package == "matplotlib":
        draw, path = viz.draw_scan, [tmp_path / "a.png"]
    with pytest.raises(RuntimeError, match=re.escape("torchsparse_lite[viz]")) as caught:
        draw(cloud(), CARD, *path)
    assert package in str(caught.value)
    assert FORM.match(str(caught.value))


def test_the_window_gets_points_and_colors(monkeypatch):
    """A stand-in for Open3D records what it was given."""
    shown = []
    fake = types.SimpleNamespace(
        geometry=types.SimpleNamespace(PointCloud=types.SimpleNamespace),
        utility=types.SimpleNamespace(Vector3dVector=np.asarray),
        visualization=types.SimpleNamespace(
            draw_geometries=lambda clouds, window_name: shown.append((clouds[0], window_name))
        ),
    )
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)
    scan = cloud()
    viz.show_scan(scan, CARD)
    viz.show_scan(scan, CARD, np.full(len(scan), CAR))
    (labelled, name), (predicted, _) = shown
    np.testing.assert_array_equal(labelled.points, scan.xyz)
    np.testing.assert_allclose(labelled.colors * 255, viz.colors_of(scan.labels, CARD))
    assert (predicted.colors * 255 == CARD.colors[CAR]).all()
    assert "00/000000" in name
