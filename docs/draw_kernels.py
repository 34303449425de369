# SPDX-License-Identifier: MIT
"""Draw the pictures of docs/kernels.md into docs/images.

Rows, children and pairs are computed here with arithmetic that imports nothing from the library.
Usage, with matplotlib installed:

    python docs/draw_kernels.py [--out docs/images] [--kind svg|png]
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from diagram import INPUT, MUTED, TAPS, TRAIL, Box, Drawing, Picture, draw_all

if TYPE_CHECKING:
    from diagram import Point, Role

SITES = {
    (0, 5),
    (1, 4),
    (1, 5),
    (2, 3),
    (3, 2),
    (3, 3),
    (4, 2),
    (5, 1),
    (6, 0),
    (6, 1),
    (6, 6),
    (7, 7),
}


def morton(row: int, column: int) -> int:
    """Interleave the bits of two coordinates below 8."""
    return sum((row >> b & 1) << 2 * b + 1 | (column >> b & 1) << 2 * b for b in range(3))


def draw_pyramid(out: Drawing) -> None:
    """Show the order of rows, and that the children of a cell are neighbouring rows."""
    cells = sorted(product(range(8), repeat=2), key=lambda cell: morton(*cell))
    rows = {site: row for row, site in enumerate(c for c in cells if c in SITES)}
    keys = [morton(*site) for site in rows]
    left, top, side = 0.5, 9.0, 10.4
    out.write((left, 10.1), "Sites in Morton order", style="title")
    for row, column in cells:
        out.cell((left + column, top - row - 1))
    out.trail([(left + c + 0.5, top - r - 0.5) for r, c in cells], colour=TRAIL)
    for (row, column), number in rows.items():
        out.cell((left + column, top - row - 1), str(number), role="input")
    out.write((side, 10.1), "Each level is one scan of the level below", style="title")
    for level, stride in enumerate((4, 2, 1)):
        y = 7.4 - 2.1 * level
        parents = [key // stride**2 for key in keys]
        out.write((side, y + 1.4), f"tensor stride {stride}", style="note")
        for number, parent in enumerate(sorted(set(parents))):
            box = Box(width=parents.count(parent))
            role: Role = "input" if stride == 1 else "input_pale"
            out.cell((side + parents.index(parent), y), str(number), role=role, box=box)
    out.paragraph(
        (side, 2.4),
        "A parent keeps the row of its first child and a mask of its\n"
        "occupied children. The children lie side by side.",
    )


def draw_strip(out: Drawing, at: Point, name: str, values: list[int], colours: list[str]) -> None:
    """Draw one named array, each value in its own colour."""
    out.write((0.4, at[1] + 0.5), name, style="code")
    for number, (value, colour) in enumerate(zip(values, colours, strict=True)):
        corner = (at[0] + number, at[1])
        out.cell(corner, role="plain")
        middle = (corner[0] + 0.5, corner[1] + 0.5)
        out.write(middle, str(value), align="center", colour=colour)


def draw_kernel_map(out: Drawing) -> None:
    """Show the two views of the kernel map of a small submanifold convolution."""
    sites, left = [2, 5, 6, 7, 11], 6.0
    pairs = [
        (tap, sites.index(site + tap - 1), row)
        for tap in range(3)
        for row, site in enumerate(sites)
        if site + tap - 1 in sites
    ]
    out.write((0.4, 12.9), "Five sites, kernel 3", style="title")
    for x in range(13):
        text = str(sites.index(x)) if x in sites else ""
        out.cell((left + x, 12.4), text, role="input" if x in sites else "empty")
    out.write((left, 11.95), "the number is the row of feats", style="note")
    out.write((0.4, 10.5), "Pairs by tap", style="title")
    for tap, colour in enumerate(TAPS):
        start = left + [pair[0] for pair in pairs].index(tap)
        out.write((start + 0.05, 10.5), f"tap {tap}", colour=colour)
    colours = [TAPS[tap] for tap, _, _ in pairs]
    draw_strip(out, (left, 9.0), "in_index", [pair[1] for pair in pairs], colours)
    draw_strip(out, (left, 7.85), "out_index", [pair[2] for pair in pairs], colours)
    starts = [sum(pair[0] < tap for pair in pairs) for tap in range(4)]
    draw_strip(out, (left, 6.7), "tap_ptr", starts, [*TAPS, MUTED])
    out.write((0.4, 5.2), "Neighbours by output", style="title")
    y, column = 3.6, left
    out.write((0.4, y + 0.5), "mask", style="code")
    out.write((0.4, y - 0.65), "rows", style="code")
    out.write((0.4, y - 1.8), "ptr", style="code")
    count = 0
    for row in range(len(sites)):
        mine = [pair for pair in sorted(pairs) if pair[2] == row]
        mask = "".join(str(int(any(p[0] == tap for p in mine))) for tap in range(3))
        width = max(len(mine), 2)
        out.write((column + width / 2, 5.2), f"row {row}", align="center", colour=INPUT)
        out.cell((column, y), mask, role="input_pale", box=Box(width=width))
        for number, (tap, source, _) in enumerate(mine):
            corner = (column + number + (width - len(mine)) / 2, y - 1.15)
            out.cell(corner, role="plain")
            middle = (corner[0] + 0.5, corner[1] + 0.5)
            out.write(middle, str(source), align="center", colour=TAPS[tap])
        out.write((column + width / 2, y - 1.8), str(count), align="center", colour=MUTED)
        count += len(mine)
        column += width + 0.5
    out.write((column + 0.2, y - 1.8), str(count), align="center", colour=MUTED)
    out.write(
        (left, 0.7),
        "mask: one bit a tap, tap 0 first;  rows: the taps that are there, in order",
        style="note",
    )


PICTURES = [
    Picture("morton_pyramid", draw_pyramid, 23.2, 11.0),
    Picture("kernel_map", draw_kernel_map, 20.8, 14.0),
]

if __name__ == "__main__":
    draw_all(PICTURES)
