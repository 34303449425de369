# SPDX-License-Identifier: MIT
"""Tables of what was measured on a GPU: ``python -m benchmarks.gpu_report FOLDER``.

Prints them and writes them to ``FOLDER/tables.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_COLUMNS = {
    "layers": (
        "case", "dtype", "channels", "voxel_size_m", "pairs_per_voxel", "operator", "plain", "cpu",
        "train", "plain_train", "operator_vs_mm", "train_vs_mm", "error", "bitwise", "pyramid",
        "hash", "bytes", "failed",
    ),
    "networks": (
        "network", "pairs_per_voxel", "inference", "inference_half", "inference_captured",
        "fallbacks", "inference_plain", "inference_cpu", "inference_vs_mm", "inference_peak_mb",
        "train", "train_peak_mb", "bitwise", "failed",
    ),
    "peers": (
        "peer", "dtype", "channels", "voxel_size_m", "pairs_per_voxel", "ours_warm", "peer_warm",
        "warm_vs_peer", "ours_cold", "peer_cold", "cold_vs_peer", "error", "absent", "failed",
    ),
}  # fmt: skip
"""What each table shows of a row; a column in which no row has anything is left out."""

SUITES = tuple(_COLUMNS)


def main(arguments: list[str] | None = None) -> int:
    """Read the results of a folder, print and write their tables; 1 if there are none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    text = "\n\n".join(table(result) for result in results if result.get("suite") in _COLUMNS)
    if not text:
        print(f"no results in {folder}")
        return 1
    (folder / "tables.md").write_text(text + "\n")
    print(text)
    return 0


def table(result: dict[str, Any]) -> str:
    """Markdown of one result."""
    shown = [
        name
        for name in _COLUMNS[result["suite"]]
        if any(row.get(name) is not None for row in result["rows"])
    ]
    lines = [_caption(result), "", _line(name.replace("_", " ") for name in shown)]
    lines.append("|---" * len(shown) + "|")
    lines += [_line(_cell(row.get(name)) for name in shown) for row in result["rows"]]
    return "\n".join(lines)


def _caption(result: dict[str, Any]) -> str:
    scans = sorted({row["scan"] for row in result["rows"] if "scan" in row})
    gpu = f"{result['gpu']}, CUDA {result['cuda']}, " if "gpu" in result else ""
    return (
        f"{result['suite']}, {'; '.join(scans) or 'no scan'}; milliseconds are medians with "
        f"quartiles. {gpu}{result['processor']}, torch {result['torch']}, "
        f"{result['date'][:10]}, commit {result['commit']}."
    )


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        low, high = value["quartiles_ms"]
        return f"{value['median_ms']:.3f} ({low:.3f}-{high:.3f})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
