# SPDX-License-Identifier: MIT
"""Pictures of scans: panels as PNG with matplotlib, and a window with Open3D.

Points have the colours of their classes on the data set's card; ignored ones are grey.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.cards import Card
from torchsparse_lite.data.scan import IGNORE, Scan
from torchsparse_lite.errors import needs_extra, refuse

__all__ = ["colors_of", "draw_scan", "has_display", "show_scan"]

Colors = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_BACKGROUND = (253, 253, 251)
_IGNORED = (200, 200, 200)
_RIGHT = (175, 195, 215)
_WRONG = (235, 20, 20)
_PIXELS = 1000  # of a view from above, along its longer side
_STRIPS = {"range": "range image (azimuth 180 to -180 degrees, x in the middle)", "side": "side"}


@dataclass(frozen=True)
class _Panel:
    """One way to colour the points.

    Attributes:
        title: above the picture.
        colors: (N, 3) uint8 of the points.
        is_raised: (N,) bool: points that others do not cover; or None.
    """

    title: str
    colors: Colors
    is_raised: npt.NDArray[np.bool_] | None = None


def colors_of(labels: Labels, card: Card) -> Colors:
    """Colours of points by their classes.

    Args:
        labels: (N,) train ids, 255 where ignored.
        card: knows the colours.

    Returns:
        (N, 3) uint8 red, green, blue.

    Raises:
        ValueError: a label is no class of the card.
    """
    table = np.full((max(IGNORE, card.num_classes) + 1, 3), _IGNORED, np.uint8)
    if card.num_classes:
        table[: card.num_classes] = card.colors
    wrong = (labels != IGNORE) & ((labels < 0) | (labels >= card.num_classes))
    if wrong.any():
        rule = f"in [0, {card.num_classes}) or {IGNORE} for card {card.name}"
        remedy = "Use the card that the labels were made with."
        refuse("colors_of: labels", rule, int(labels[wrong][0]), remedy)
    return np.asarray(table[labels])


def draw_scan(scan: Scan, card: Card, path: str | Path, prediction: Labels | None = None) -> Path:
    """Write a PNG: the scan from above, as range image or from the side, and a legend.

    Args:
        scan: coloured by its labels; by remission if it has neither labels nor a prediction.
        card: class names, colours, and which views make sense.
        path: of the PNG; its folder is made if needed.
        prediction: (N,) train ids to show too and, where there are labels, to compare with them.

    Returns:
        The path.

    Raises:
        RuntimeError: matplotlib is not installed.
        ValueError: the prediction has another number of points, or unknown classes.
    """
    needs_extra("draw_scan", "matplotlib", "viz")
    figures = needs_extra("draw_scan", "matplotlib.figure", "viz")
    panels = _panels(scan, card, prediction)
    strips = [view for view in card.views if view in _STRIPS]
    shown = [labels for labels in (scan.labels, prediction) if labels is not None]
    width = 6.4 * max(len(panels), 1.6)
    strip = _strip_height(scan, width) if "side" in strips else 1.5
    legend = _Legend.of(card, shown, width)
    heights = [6.4] + [strip] * (len(strips) * len(panels)) + [legend.height]
    figure = figures.Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(f"{card.title}, {scan.name}: {len(scan):,} points")
    rows = figure.subfigures(len(heights), 1, height_ratios=heights)
    axes = np.ravel(rows[0].subplots(1, len(panels)))
    cut = 0.01 if "range" in strips and len(scan) > 1000 else 0.0  # a sensor's furthest returns
    for panel, axis in zip(panels, axes, strict=True):
        _draw_top(axis, scan, panel, cut)
    strip_rows = iter(rows[1:-1])
    for view in strips:
        for panel in panels:
            axis = next(strip_rows).subplots()
            image = _range_image(scan, panel.colors, card) if view == "range" else None
            _draw_strip(axis, scan, panel, image)
    legend.draw(rows[-1])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def show_scan(scan: Scan, card: Card, prediction: Labels | None = None) -> None:
    """Open a window with the scan, coloured by the prediction if given, else by its labels.

    Args:
        scan: the points.
        card: class colours.
        prediction: (N,) train ids.

    Raises:
        RuntimeError: Open3D is not installed, or there is no display.
        ValueError: the prediction has another number of points, or unknown classes.
    """
    panels = _panels(scan, card, prediction)
    if not has_display():
        refuse(
            "show_scan: display",
            "there",
            "neither DISPLAY nor WAYLAND_DISPLAY",
            "Write a picture with draw_scan(scan, card, path), or log in with ssh -X.",
            error=RuntimeError,
        )
    open3d = needs_extra("show_scan", "open3d", "viz")
    panel = panels[0] if prediction is None else _by_class("prediction", prediction, card)
    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(scan.xyz.astype(np.float64))
    cloud.colors = open3d.utility.Vector3dVector(panel.colors / 255.0)
    open3d.visualization.draw_geometries([cloud], window_name=f"{card.title}, {scan.name}")


def has_display() -> bool:
    """Whether a window can open here."""
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or bool(named)


def _strip_height(scan: Scan, width: float) -> float:
    """Inches that a view from the side needs."""
    if not len(scan):
        return 1.5
    x, _, z = (np.subtract(*(v.max(), v.min())) for v in scan.xyz.T)
    return float(np.clip(0.9 * width * z / max(x, 1e-3) + 0.6, 1.5, 6.4))


def _by_class(title: str, labels: Labels, card: Card) -> _Panel:
    return _Panel(title, colors_of(labels, card))


def _panels(scan: Scan, card: Card, prediction: Labels | None) -> list[_Panel]:
    if prediction is not None and np.shape(prediction) != (len(scan),):
        remedy = "Predict a class for every point: voxel predictions go through the inverse map."
        rule = f"of shape ({len(scan)},), one class per point"
        refuse("draw_scan: prediction", rule, np.shape(prediction), remedy)
    panels = [] if scan.labels is None else [_by_class("label", scan.labels, card)]
    if prediction is not None:
        panels.append(_by_class("prediction", prediction, card))
    if scan.labels is not None and prediction is not None:
        panels.append(_error(scan.labels, prediction))
    return panels or [_by_remission(scan)]


def _error(labels: Labels, prediction: Labels) -> _Panel:
    counted = labels != IGNORE
    is_wrong = counted & (labels != prediction)
    colors = np.where(is_wrong[:, None], _WRONG, _RIGHT)
    colors[~counted] = _IGNORED
    share = is_wrong.sum() / max(int(counted.sum()), 1)
    title = f"error: {share:.1%} of {int(counted.sum()):,} labelled points (red, on top)"
    return _Panel(title, colors.astype(np.uint8), is_wrong)


def _by_remission(scan: Scan) -> _Panel:
    """Grey by rank, since sensors differ in scale."""
    rank = scan.remission.argsort(kind="stable").argsort(kind="stable")
    grey = 215 - 215 * rank / max(len(scan) - 1, 1)
    return _Panel("remission (dark is high)", np.repeat(grey[:, None], 3, axis=1).astype(np.uint8))


def _paint(
    column: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    colors: Colors,
    shape: tuple[int, int],
) -> Colors:
    """A picture with one pixel per point; later points cover earlier ones."""
    image = np.full((*shape, 3), _BACKGROUND, np.uint8)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    flat = row[inside] * shape[1] + column[inside]
    _, last = np.unique(flat[::-1], return_index=True)
    last = len(flat) - 1 - last
    image.reshape(-1, 3)[flat[last]] = colors[inside][last]
    return image


def _view(
    across: Floats, up: Floats, towards: Floats, colors: Colors, *, cut: float = 0.0
) -> tuple[Colors, tuple[float, float, float, float]]:
    """Orthographic picture.

    Args:
        across: (N,) metres, to the right.
        up: (N,) metres, upwards.
        towards: (N,) the viewer; nearer points cover others.
        colors: (N, 3) uint8.
        cut: share of the points to leave out at each end of each axis.

    Returns:
        The picture, and its extent: left, right, bottom, top in metres.
    """
    if not len(across):
        return np.full((2, 2, 3), _BACKGROUND, np.uint8), (-1.0, 1.0, -1.0, 1.0)
    (left, right), (bottom, top) = (np.quantile(v, (cut, 1 - cut)) for v in (across, up))
    margin = 0.02 * max(right - left, top - bottom, 1e-3)
    left, right, bottom, top = left - margin, right + margin, bottom - margin, top + margin
    scale = _PIXELS / max(right - left, top - bottom)
    size = int(np.clip(np.sqrt((top - bottom) * (right - left) * scale**2 / len(across)), 2, 6))
    shape = (int((top - bottom) * scale) + 1, int((right - left) * scale) + 1)
    order = towards.argsort(kind="stable")
    column = ((across - left) * scale).astype(np.int64)[order]
    row = ((top - up) * scale).astype(np.int64)[order]
    square = np.arange(size)  # a point is size x size pixels
    columns = (column[:, None] + np.tile(square, size)).reshape(-1)
    rows = (row[:, None] + np.repeat(square, size)).reshape(-1)
    image = _paint(columns, rows, np.repeat(colors[order], size**2, axis=0), shape)
    return image, (left, right, bottom, top)


def _range_image(scan: Scan, colors: Colors, card: Card) -> Colors:
    """Inclination over azimuth, the nearest point in front, forward (x) in the middle."""
    grid = card.layout.get("grid", {"rows": 64, "columns": 1024, "inclination_deg": (-25, 15)})
    low, high = np.deg2rad(grid["inclination_deg"])
    x, y, z = scan.xyz.T
    distance = np.linalg.norm(scan.xyz, axis=1)
    inclination = np.arctan2(z, np.hypot(x, y))
    row = np.floor((high - inclination) / (high - low) * grid["rows"]).astype(np.int64)
    column = np.floor((0.5 - np.arctan2(y, x) / (2 * np.pi)) * grid["columns"]).astype(np.int64)
    order = (-distance).argsort(kind="stable")
    shape = (int(grid["rows"]), int(grid["columns"]))
    row, column, colors = row[order], column[order] % shape[1], colors[order]
    # Beams are not evenly spaced: each point also fills the cell below it where that is empty.
    rows, columns = np.concatenate([row + 1, row]), np.concatenate([column, column])
    return _paint(columns, rows, np.concatenate([colors, colors]), shape)


def _draw_top(axis: Any, scan: Scan, panel: _Panel, cut: float) -> None:
    x, y, z = scan.xyz.T
    height = z if panel.is_raised is None else np.where(panel.is_raised, np.inf, z)
    image, extent = _view(x, y, height, panel.colors, cut=cut)
    axis.imshow(image, extent=extent, interpolation="nearest")
    axis.set_title(f"{panel.title}, from above", fontsize="medium")
    axis.set_xlabel("x / m")
    axis.set_ylabel("y / m")


def _draw_strip(axis: Any, scan: Scan, panel: _Panel, range_image: Colors | None) -> None:
    if range_image is not None:
        axis.imshow(range_image, aspect="auto", interpolation="nearest")
        axis.set_title(f"{panel.title}, {_STRIPS['range']}", fontsize="medium")
        axis.set_axis_off()
        return
    x, y, z = scan.xyz.T
    image, extent = _view(x, z, -y, panel.colors)
    axis.imshow(image, extent=extent, interpolation="nearest")
    axis.set_title(f"{panel.title}, from the side", fontsize="medium")
    axis.set_ylabel("z / m")


@dataclass(frozen=True)
class _Legend:
    """The classes that occur.

    Attributes:
        texts: name and share of each.
        colors: of each.
        columns: side by side.
        height: inches.
    """

    texts: list[str]
    colors: list[tuple[int, int, int]]
    columns: int
    height: float

    @classmethod
    def of(cls, card: Card, shown: list[Labels], width: float) -> _Legend:
        """Shares are those of the first array shown."""
        texts, colors = [], []
        for label in np.unique(np.concatenate(shown)).tolist() if shown else []:
            share = float(np.mean(shown[0] == label))
            name = "ignored" if label == IGNORE else card.classes[label]
            texts.append(f"{name} {share:.1%}")
            colors.append(_IGNORED if label == IGNORE else card.colors[label])
        longest = max(map(len, texts), default=1)
        columns = max(1, int(width / (0.08 * longest + 0.7)))
        return cls(texts, colors, columns, 0.3 + 0.2 * -(-len(texts) // columns))

    def draw(self, figure: Any) -> None:
        """Fill the (sub)figure."""
        patches = needs_extra("draw_scan", "matplotlib.patches", "viz")
        handles = [
            patches.Patch(color=tuple(value / 255 for value in color), label=text)
            for text, color in zip(self.texts, self.colors, strict=True)
        ]
        if handles:
            figure.legend(
                handles=handles, loc="center", ncols=self.columns, fontsize="small", frameon=False
            )
