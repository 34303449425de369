# SPDX-License-Identifier: MIT
"""Drawing vocabulary of the documentation: one palette, cells, arrows, text, and the command line.

Sites are drawn as rounded cells. The colour says the role (blue: input, orange: output), never the
level. Taps have their own three colours. Everything is placed in data coordinates in which one
unit is one cell of the finest level.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

Point = tuple[float, float]
Role = Literal[
    "empty",
    "input",
    "output",
    "input_dot",
    "output_dot",
    "input_pale",
    "output_pale",
    "plain",
    "wrong",
]
TextStyle = Literal["title", "body", "note", "code"]
Align = Literal["left", "center", "right"]

INK, MUTED, LINE, PAPER = "#22303C", "#5F6B78", "#CBD3DB", "#FFFFFF"
INPUT, OUTPUT, WRONG, TRAIL = "#2E6FB7", "#DD7326", "#B4384A", "#EDB48B"
TAPS = ("#0E8A83", "#6D54A8", "#C7417B")

# face, edge, text
_ROLES: dict[Role, tuple[str, str, str]] = {
    "empty": ("#F7F9FB", LINE, "#8893A0"),
    "input": (INPUT, INPUT, PAPER),
    "output": (OUTPUT, OUTPUT, PAPER),
    "input_dot": (INPUT, PAPER, PAPER),
    "output_dot": (OUTPUT, PAPER, PAPER),
    "input_pale": ("#DDE9F6", INPUT, INPUT),
    "output_pale": ("#FBE7D8", OUTPUT, "#A9531A"),
    "plain": (PAPER, LINE, INK),
    "wrong": ("#FAE9EB", WRONG, WRONG),
}
# size in points, weight, family, colour
_TEXT: dict[TextStyle, tuple[float, str, str, str]] = {
    "title": (12.5, "bold", "DejaVu Sans", INK),
    "body": (10.5, "normal", "DejaVu Sans", INK),
    "note": (10.0, "normal", "DejaVu Sans", MUTED),
    "code": (10.5, "normal", "DejaVu Sans Mono", INK),
}


@dataclass(frozen=True)
class Box:
    """Extent of a cell, the margin around it (both in cells) and its text size (in points)."""

    width: float = 1.0
    height: float = 1.0
    gap: float = 0.06
    font: float = 10.5


class Drawing:
    """One borderless drawing; a data unit has the same length on both axes."""

    def __init__(self, width: float, height: float, *, inches: float = 9.0) -> None:
        """Make an empty drawing of ``width`` x ``height`` cells, ``inches`` wide on paper."""
        mpl.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "torchsparse_lite"})
        self.figure = Figure(figsize=(inches, inches * height / width), facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()
        self.point = width / inches / 72

    def _baseline(self, middle: float, font: float) -> float:
        """Give the base line of digits centred at ``middle``; descenders must not move text."""
        return middle - 0.365 * font * self.point

    def cell(self, at: Point, text: str = "", *, role: Role = "empty", box: Box = Box()) -> None:
        """Draw one site; ``at`` is its lower left corner."""
        face, edge, ink = _ROLES[role]
        patch = FancyBboxPatch(
            (at[0] + box.gap, at[1] + box.gap),
            box.width - 2 * box.gap,
            box.height - 2 * box.gap,
            boxstyle="round,pad=0,rounding_size=0.13",
            facecolor=face,
            edgecolor=edge,
            linewidth=1.1,
            linestyle=(0, (3, 2)) if role == "wrong" else "solid",
            zorder=3,
        )
        self.axes.add_patch(patch)
        self.axes.text(
            at[0] + box.width / 2,
            self._baseline(at[1] + box.height / 2, box.font),
            text.replace("-", "\N{MINUS SIGN}"),
            color=ink,
            fontsize=box.font,
            ha="center",
            va="baseline",
            weight="bold" if role in ("input", "output") else "normal",
            zorder=4,
        )

    def link(self, start: Point, end: Point, *, colour: str = INK, arrow: bool = True) -> None:
        """Draw an arrow, or a plain line, between two points."""
        patch = FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=5,head_width=2.6" if arrow else "-",
            color=colour,
            linewidth=1.8,
            shrinkA=0,
            shrinkB=0,
            zorder=5,
        )
        self.axes.add_patch(patch)

    def trail(self, points: list[Point], *, colour: str) -> None:
        """Draw a thin line through many points, above the cells drawn so far."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=colour, linewidth=1.4, zorder=3, solid_joinstyle="round")

    def write(
        self,
        at: Point,
        text: str,
        *,
        style: TextStyle = "body",
        align: Align = "left",
        colour: str | None = None,
    ) -> None:
        """Write one line of text whose digits are vertically centred at ``at``."""
        size, weight, family, ink = _TEXT[style]
        self.axes.text(
            at[0],
            self._baseline(at[1], size),
            text.replace("-", "\N{MINUS SIGN}"),
            color=colour or ink,
            fontsize=size,
            family=family,
            weight=weight,
            ha=align,
            va="baseline",
            zorder=6,
        )

    def paragraph(self, at: Point, text: str) -> None:
        """Write a note of several lines; ``at`` is the left end of its first line."""
        x, y = at
        height = 1.5 * _TEXT["note"][0] * self.point
        for number, line in enumerate(text.split("\n")):
            self.write((x, y - height * number), line, style="note")

    def save(self, path: Path) -> None:
        """Save without date, version or anything else that changes from run to run."""
        svg = path.suffix == ".svg"
        empty = {"Date": None, "Creator": None} if svg else {"Software": None}
        self.figure.savefig(path, dpi=160, metadata=empty, facecolor=PAPER)


@dataclass(frozen=True)
class Picture:
    """A named drawing and its size in cells."""

    name: str
    draw: Callable[[Drawing], None]
    width: float
    height: float


def draw_all(pictures: list[Picture]) -> None:
    """Read ``--out`` and ``--kind`` from the command line, and draw every picture."""
    parser = argparse.ArgumentParser(description="Draw pictures of the documentation.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--kind", choices=("svg", "png"), default="svg")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        drawing = Drawing(picture.width, picture.height)
        picture.draw(drawing)
        drawing.save(arguments.out / f"{picture.name}.{arguments.kind}")
