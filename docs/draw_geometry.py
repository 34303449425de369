# SPDX-License-Identifier: MIT
"""Draw the pictures of docs/geometry.md into docs/images.

Every site in a picture is computed here from the relation of the geometry contract,

    fine = stride * coarse + dilation * tap - padding,

with arithmetic that imports nothing from the library. Usage, with matplotlib installed:

    python docs/draw_geometry.py [--out docs/images] [--kind svg|png]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from diagram import INK, INPUT, LINE, MUTED, OUTPUT, TAPS, WRONG, Box, Drawing, Picture, draw_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from diagram import Point, Role

Sites = set[int]
Cells = set[tuple[int, int]]


@dataclass(frozen=True)
class Geometry:
    """One axis of a convolution."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def fine(self, coarse: int, tap: int) -> int:
        """Apply the relation."""
        return self.stride * coarse + self.dilation * tap - self.padding

    def full(self, fine: Iterable[int]) -> Sites:
        """List every coarse site whose window holds one of the fine sites."""
        shifted = (f + self.padding - self.dilation * t for f in fine for t in range(self.kernel))
        return {s // self.stride for s in shifted if s % self.stride == 0}

    def cells(self, fine: Iterable[int]) -> Sites:
        """List the occupied cells floor(fine / stride)."""
        return {f // self.stride for f in fine}

    def reached(self, coarse: Iterable[int]) -> Sites:
        """List every fine site that the kernel reaches."""
        return {self.fine(c, t) for c in coarse for t in range(self.kernel)}

    def output_length(self, length: int) -> int:
        """Give the length of a dense convolution's output."""
        window = self.dilation * (self.kernel - 1) + 1
        return (length + 2 * self.padding - window) // self.stride + 1


SAME = Geometry(3, padding=1)
HALF = Geometry(3, stride=2, padding=1)


def in_plane(rule: Callable[[Iterable[int]], Sites], cells: Cells) -> Cells:
    """Apply a rule of one axis to both axes of each cell, and join the results."""
    return {pair for x, y in cells for pair in product(rule([x]), rule([y]))}


def draw_relation(out: Drawing) -> None:
    """Show the three terms of the relation for one output site."""
    coarse, left, low, high = 3, 4.3, 2.5, 5.1
    origin = left + HALF.stride * coarse
    out.write((0.3, 6.9), "One relation", style="title")
    out.write((left, 6.9), "fine  =  stride · coarse  +  dilation · tap  -  padding", style="code")
    out.write((0.3, high + 0.5), "coarse level, output")
    out.write((0.3, low + 0.5), "fine level, input")
    draw_row(out, (left, high), {coarse}, "output", span=(6, 2))
    draw_row(out, (left, low), HALF.reached([coarse]), "input_pale", span=(12, 1))
    for tap in range(HALF.kernel):
        middle = left + HALF.fine(coarse, tap) + 0.5
        out.link((middle, low + 0.97), (origin + 0.56 + 0.44 * tap, high), colour=TAPS[tap])
        out.write((middle, low - 0.3), f"tap {tap}", align="center", colour=TAPS[tap])
    out.link((left, 1.35), (origin, 1.35))
    out.write((origin + 0.3, 1.35), "stride · coarse  =  2 · 3  =  6", style="note")
    out.link((origin, 0.7), (origin - HALF.padding, 0.7), colour=WRONG)
    out.write((origin + 0.3, 0.7), "padding  =  1,  so tap 0 meets fine site 5", style="note")


def draw_row(out: Drawing, at: Point, sites: Sites, role: Role, *, span: tuple[int, int]) -> None:
    """Draw one level: cells of width span[1] for the sites 0..span[0]-1."""
    for site in range(span[0]):
        shown: Role = role if site in sites else "empty"
        corner = (at[0] + site * span[1], at[1])
        out.cell(corner, str(site), role=shown, box=Box(width=span[1]))


def draw_links(out: Drawing, left: float, pairs: list[tuple[float, float, int]], y: Point) -> None:
    """Draw arrows from (start, y[0]) to (end, y[1]), coloured by tap."""
    for start, end, tap in pairs:
        out.link((left + start, y[0]), (left + end, y[1]), colour=TAPS[tap])


def draw_convolutions_1d(out: Drawing) -> None:
    """Compare the five kinds of convolution on one axis."""
    fine, some_coarse = {2, 5, 6, 11}, {1, 2, 5}
    down = HALF.full(fine)
    panels: list[tuple[str, str, Geometry, Sites, Sites]] = [
        ("Submanifold", "stride 1\nsites stay", SAME, fine, fine),
        ("Strided, “full”", "stride 2\nevery window\nthat holds an input", HALF, fine, down),
        ("Strided, “cell”", "stride 2\nevery occupied cell", HALF, fine, HALF.cells(fine)),
        ("Transposed", "stride 2\nonto known sites", HALF, fine, down),
        ("Generative", "stride 2\nonto all sites\nthe kernel reaches", HALF, set(), some_coarse),
    ]
    left, step = 5.6, 4.35
    top = step * len(panels)
    out.write((0.3, top + 0.75), "kernel 3, padding 1", style="title")
    for tap, colour in enumerate(TAPS):
        out.link(
            (left + 7.4 + 2.3 * tap, top + 0.75),
            (left + 8.0 + 2.3 * tap, top + 0.75),
            colour=colour,
        )
        out.write((left + 8.15 + 2.3 * tap, top + 0.75), f"tap {tap}", colour=colour)
    out.cell((left, top + 0.45), role="input", box=Box(0.6, 0.6))
    out.write((left + 0.75, top + 0.75), "input")
    out.cell((left + 3.0, top + 0.45), role="output", box=Box(0.6, 0.6))
    out.write((left + 3.75, top + 0.75), "output")
    for number, (title, text, geometry, low, high) in enumerate(panels):
        base = top - step * (number + 1) + 0.45
        upwards = number < 3
        low = low or geometry.reached(high)
        roles: tuple[Role, Role] = ("input", "output") if upwards else ("output", "input")
        out.write((0.3, base + 2.85), title, style="title")
        out.paragraph((0.3, base + 2.15), text)
        draw_row(out, (left, base), low, roles[0], span=(14, 1))
        wide = geometry.stride
        draw_row(out, (left, base + 2.35), high, roles[1], span=(14 // wide, wide))
        links = [
            (geometry.fine(c, t) + 0.5, (c + 0.5) * wide + 0.22 * wide * (t - 1), t)
            for c in sorted(high)
            for t in range(geometry.kernel)
            if geometry.fine(c, t) in low
        ]
        if upwards:
            draw_links(out, left, links, (base + 0.97, base + 2.38))
        else:
            draw_links(out, left, [(b, a, t) for a, b, t in links], (base + 2.38, base + 0.97))


def draw_plane(out: Drawing, at: Point, *layers: tuple[Cells, Role, Box]) -> None:
    """Draw a 10 x 10 grid and, from bottom to top, layers of cells of some size."""
    for x, y in product(range(10), repeat=2):
        out.cell((at[0] + x, at[1] + y))
    for cells, role, box in layers:
        for x, y in sorted(cells):
            out.cell(
                (at[0] + round(box.width) * x, at[1] + round(box.height) * y), role=role, box=box
            )


def draw_convolutions_2d(out: Drawing) -> None:
    """Compare the five kinds of convolution in the plane."""
    fine = {(1, 6), (2, 6), (3, 5), (4, 4), (4, 3), (5, 2), (6, 2), (7, 7)}
    full, cells = in_plane(HALF.full, fine), in_plane(HALF.cells, fine)
    seeds = {(1, 3), (3, 2)}
    grown = in_plane(HALF.reached, seeds)
    one, two, dot = Box(), Box(2, 2), Box(gap=0.2)
    panels: list[tuple[str, str, list[tuple[Cells, Role, Box]]]] = [
        ("Input", f"{len(fine)} sites", [(fine, "input", one)]),
        ("Submanifold", f"{len(fine)} sites, the same", [(fine, "output", one)]),
        (
            "Strided, “full”",
            f"{len(full)} sites",
            [(full, "output", two), (fine, "input_dot", dot)],
        ),
        (
            "Strided, “cell”",
            f"{len(cells)} sites",
            [(cells, "output", two), (fine, "input_dot", dot)],
        ),
        ("Transposed", "onto known sites", [(cells, "input", two), (fine, "output_dot", dot)]),
        (
            "Generative",
            f"{len(seeds)} sites reach {len(grown)}",
            [(seeds, "input", two), (grown, "output_dot", dot)],
        ),
    ]
    for number, (title, text, layers) in enumerate(panels):
        at = (0.7 + 11.5 * (number % 3), 13.6 - 12.9 * (number // 3))
        draw_plane(out, at, *layers)
        out.write((at[0], at[1] + 11.5), title, style="title")
        out.write((at[0], at[1] + 10.6), text, style="note")


def draw_taps(out: Drawing, at: Point, kernel: tuple[int, int, int], *, box: Box) -> None:
    """Draw a kernel as slices of x; y grows downwards and z to the right."""
    centre = tuple((k - 1) // 2 for k in kernel)
    for number, tap in enumerate(product(*(range(k) for k in kernel))):
        corner = (
            at[0] + tap[0] * (kernel[2] + 0.6) * box.width + tap[2] * box.width,
            at[1] - (tap[1] + 1) * box.height,
        )
        out.cell(corner, str(number), role="input" if tap == centre else "plain", box=box)


def draw_tap_order(out: Drawing) -> None:
    """Number the taps of three kernels."""
    left, top, box = 4.6, 8.3, Box(1.25, 1.05, font=11.5)
    out.write((0.3, 10.1), "Tap order", style="title")
    out.write((left, 10.1), "tap  =  (tap_x · K_y  +  tap_y) · K_z  +  tap_z", style="code")
    out.write((0.3, top - 0.5), "kernel (3, 3, 3)")
    out.paragraph((0.3, top - 1.25), "blue: the tap at\nthe site itself")
    draw_taps(out, (left, top), (3, 3, 3), box=box)
    for x in range(3):
        middle = left + (3.6 * x + 1.5) * box.width
        out.write((middle, top + 0.45), f"x tap {x}", style="note", align="center")
    side = left + 10.45 * box.width
    out.link((side, top - 3.5), (side + 1.7, top - 3.5))
    out.write((side + 1.9, top - 3.5), "z fastest")
    out.link((side, top - 0.1), (side, top - 2.9))
    out.write((side + 0.35, top - 1.5), "y")
    out.link((left, top - 3.5), (side - 0.5, top - 3.5), colour=MUTED)
    out.write((left + 0.05, top - 3.95), "x slowest", colour=MUTED)
    out.write((0.3, 2.15), "kernel (2, 2, 2)")
    draw_taps(out, (left, 2.65), (2, 2, 2), box=box)
    out.write((left + 8.6, 2.15), "kernel (3, 1, 1)")
    draw_taps(out, (left + 12.2, 2.65), (3, 1, 1), box=Box(1.05, 1.05, font=11.5))


def draw_floor_division(out: Drawing) -> None:
    """Show cells of three levels around zero, and what truncation would do."""
    left, low, high = 5.2, -8, 8
    fine = {-5, -1, 0, 6}
    out.write((0.3, 9.1), "Floor division", style="title")
    out.write((left, 9.1), "coarse  =  floor(fine / stride),   -1 // 2  =  -1", style="code")
    for row, stride in enumerate((1, 2, 4)):
        y = 7.2 - 1.25 * row
        sites = Geometry(1, stride=stride).cells(fine)
        out.write((0.3, y + 0.5), f"tensor stride {stride}")
        for c in range(low // stride, high // stride):
            role: Role = "input" if c in sites else "empty"
            label = str(c)
            out.cell((left + stride * c - low, y), label, role=role, box=Box(width=stride))
    out.link((left - low, 8.45), (left - low, 4.45), colour=INK, arrow=False)
    out.write((0.3, 3.35), "Not used", style="title", colour=WRONG)
    out.write((0.3, 2.25), "tensor stride 2")
    out.write((0.3, 1.0), "tensor stride 1")
    out.write((left, 3.35), "rounding towards zero:  cell 0 would take three sites", style="note")
    for c in range(low // 2, high // 2):
        members = [f for f in range(low, high) if int(f / 2) == c]
        role = "wrong" if len(members) == 3 else "empty"
        corner = (left + members[0] - low, 1.75)
        out.cell(corner, str(c), role=role, box=Box(width=len(members)))
    for f in range(low, high):
        role = "wrong" if int(f / 2) == 0 else "empty"
        out.cell((left + f - low, 0.5), str(f), role=role)


def draw_even_kernels(out: Drawing) -> None:
    """Show which offsets a submanifold kernel reads, for each size."""
    left, middle, top = 5.0, 3, 8.9
    sizes = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (2, 2), (3, 2)]
    out.write((0.3, top + 2.75), "“Same” padding", style="title")
    formula = "padding  =  dilation · (kernel - 1) // 2"
    out.write((left, top + 2.75), formula, style="code")
    out.write((0.3, top + 1.5), "the number is the tap", style="note")
    for offset in range(-middle, middle + 1):
        label = f"{offset:+d}" if offset else "site"
        x = left + 1.2 * (offset + middle) + 0.6
        out.write((x, top + 1.5), label, align="center", style="note")
    for row, (size, dilation) in enumerate(sizes):
        y = top - 1.15 * row - (0.35 if dilation > 1 else 0)
        geometry = Geometry(size, padding=dilation * (size - 1) // 2, dilation=dilation)
        text = f"kernel {size}" + (f", dilation {dilation}" if dilation > 1 else "")
        out.write((0.3, y + 0.52), text)
        taps = {geometry.fine(0, t): str(t) for t in range(size)}
        for offset in range(-middle, middle + 1):
            role: Role = "empty"
            if offset in taps:
                role = "input" if offset == 0 else "input_pale"
            corner = (left + 1.2 * (offset + middle), y)
            out.cell(corner, taps.get(offset, ""), role=role, box=Box(1.2, 1.05))
        count = f"{dilation} · {size - 1} // 2  =  {geometry.padding}"
        out.write((left + 9.1, y + 0.52), count, style="code")


def draw_spatial_shape(out: Drawing) -> None:
    """Show what a declared shape removes."""
    left, step = 6.0, 4.6
    panels = [
        ("No spatial shape", "nothing is clipped", Geometry(3, stride=2), None),
        ("spatial_shape = 8", "as a dense convolution\nof length 8", Geometry(3, stride=2), 8),
        (
            "spatial_shape = 7",
            "site 6 has no output: the\nwindow of 3 leaves [0, 7)",
            Geometry(2, stride=2),
            7,
        ),
    ]
    fine = {0, 3, 6}
    for number, (title, text, geometry, length) in enumerate(panels):
        y = step * (2 - number) + 1.5
        kept = range(geometry.output_length(length)) if length else range(-9, 9)
        out.write((0.3, y + 2.85), title, style="title")
        out.paragraph((0.3, y + 2.1), f"kernel {geometry.kernel}, stride 2\n" + text)
        for f in range(-2, 10):
            inside = length is None or 0 <= f < length
            if inside:
                out.cell(
                    (left + f + 2, y),
                    str(f),
                    role="input" if f in fine else "empty",
                )
        for c in range(-1, 5):
            role: Role = "empty"
            if c in geometry.full(fine):
                role = "output" if c in kept else "wrong"
            if role != "empty" or c in kept:
                label = str(c)
                out.cell((left + 2 * c + 2, y + 2.35), label, role=role, box=Box(width=2))
            for t in range(geometry.kernel):
                f = geometry.fine(c, t)
                if f in fine:
                    colour = TAPS[t] if c in kept else LINE
                    end = (left + 2 * c + 3 + 0.44 * (t - 1), y + 2.38)
                    out.link((left + f + 2.5, y + 0.97), end, colour=colour)
    out.cell((left, 0.2), role="wrong", box=Box(0.7, 0.7))
    out.write((left + 0.95, 0.55), "outside the output shape: dropped", style="note")


def draw_anchors(out: Drawing) -> None:
    """Show the two places where a voxel's value may sit when points are interpolated."""
    left, scale, point = 5.8, 2.2, 2.7
    panels = [
        ('anchor="corner"', "value at the lower corner", 0.0, 5.0),
        ('anchor="center"', "value in the middle", 0.5, 0.8),
    ]
    for title, text, shift, y in panels:
        pair = (int(point - shift), int(point - shift) + 1)
        weights = [1 - abs(point - c - shift) for c in pair]
        out.write((0.3, y + 1.75), title, style="title")
        out.write((0.3, y + 1.0), text, style="note")
        terms = "  +  ".join(f"{w:.1f} · v{c}" for w, c in zip(weights, pair, strict=True))
        out.write((0.3, y + 0.25), terms, style="code", colour=INPUT)
        for c in range(6):
            role: Role = "input_pale" if c in pair else "empty"
            out.cell((left + scale * c, y), str(c), role=role, box=Box(scale, 1.3))
        x = left + scale * point
        for c, weight in zip(pair, weights, strict=True):
            place = left + scale * (c + shift)
            out.cell((place - 0.17, y - 0.15), role="input", box=Box(0.34, 0.34, gap=0))
            out.link((place, y + 1.65), (x, y + 1.65), colour=INPUT, arrow=False)
            out.write((place, y + 2.1), f"{weight:.1f}", align="center", colour=INPUT)
        out.link((x, y + 2.6), (x, y + 1.25), colour=OUTPUT)
        out.write((x, y + 2.85), "point at 2.7", colour=OUTPUT, align="center")


PICTURES = [
    Picture("relation", draw_relation, 17.0, 7.5),
    Picture("convolutions_1d", draw_convolutions_1d, 20.0, 23.3),
    Picture("convolutions_2d", draw_convolutions_2d, 34.4, 26.2),
    Picture("tap_order", draw_tap_order, 22.0, 10.8),
    Picture("floor_division", draw_floor_division, 21.6, 9.8),
    Picture("even_kernels", draw_even_kernels, 18.6, 12.4),
    Picture("spatial_shape", draw_spatial_shape, 18.4, 14.6),
    Picture("point_to_voxel", draw_anchors, 19.4, 8.4),
]

if __name__ == "__main__":
    draw_all(PICTURES)
