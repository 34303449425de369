# SPDX-License-Identifier: MIT
"""``tsl view``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torchsparse_lite.data import card_names, load_card, read_prediction_file, read_scan_file
from torchsparse_lite.viz import draw_scan, has_display, show_scan

__all__ = ["view"]


def view(arguments: list[str]) -> None:
    """Show a scan in a window, or as a PNG where there is no display."""
    parser = argparse.ArgumentParser("tsl view", description=view.__doc__)
    parser.add_argument("scan", type=Path, help=".bin file")
    parser.add_argument("--label", type=Path, help="its .label file")
    parser.add_argument("--prediction", type=Path, help="a file that tsl predict wrote")
    parser.add_argument("--png", type=Path, help="write panels to this file instead of a window")
    parser.add_argument(
        "--card", default="semantickitti", help=f"{', '.join(card_names())}, or a file of your own"
    )
    parser.add_argument("--label-map", default="official", help="of the card")
    options = parser.parse_args(arguments)
    card = load_card(options.card)
    scan = read_scan_file(options.scan, card, options.label, label_map=options.label_map)
    prediction = None
    if options.prediction is not None:
        prediction = read_prediction_file(
            options.prediction, card, len(scan), label_map=options.label_map
        )
    if options.png is None and has_display():
        show_scan(scan, card, prediction)
        return
    path = options.png or Path(f"{options.scan.stem}.png")
    print(draw_scan(replace(scan, name=str(options.scan)), card, path, prediction))
