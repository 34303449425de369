# SPDX-License-Identifier: MIT
"""Write the README's table from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import gpu_report

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], object]]
"""Heading of each column, and what it shows of a row."""

Table = Callable[[dict[str, Any]], str]
"""Makes Markdown of a result."""

_ROOT = Path(__file__).resolve().parent
README = _ROOT.parent / "README.md"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def main() -> None:
    """Replace the text between the markers."""
    README.write_text(with_table(README.read_text()))


def with_table(readme: str) -> str:
    """The README with the table that the results give."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """Markdown of all committed results."""
    paths = sorted((_ROOT / "results").glob("*.json"))
    parts = tables_of([json.loads(path.read_text()) for path in paths])
    return "\n\n".join(parts) or "No result is committed yet: `python -m benchmarks.run cpu_conv`."


def tables_of(results: list[dict[str, Any]]) -> list[str]:
    """Markdown of the latest result of each suite; of each test, where there is a table for each.

    Args:
        results: with a "suite", a "date" and "rows"; those on a GPU have a "gpu".
    """
    on_cpu = [result for result in results if "gpu" not in result]
    on_gpu = [result for result in results if "gpu" in result]
    tables: list[tuple[str, str | None, Table]] = [
        ("cpu_conv", None, _conv_table),
        ("cpu_maps", None, _map_table),
        ("networks", None, _network_table),
        ("real_scans", None, _learning_table),
        ("search", "streets", _streets_table),
        ("search", "table", _table_line),
        ("search", "nothing", _nothing_line),
        ("search", "real", _frames_table),
        ("search", "ranking", _ranking_line),
        ("search", "pruning", _pruning_table),
    ]
    found = [(make, _newest(on_cpu, suite, test)) for suite, test, make in tables]
    found += [(gpu_report.table, _newest(on_gpu, suite)) for suite in gpu_report.SUITES]
    return [make(result) for make, result in found if result is not None]


def _newest(
    results: list[dict[str, Any]], suite: str, test: str | None = None
) -> dict[str, Any] | None:
    """The latest result of a suite, with the rows of the test if there are several."""
    own = [
        {**result, "rows": rows}
        for result in results
        if result["suite"] == suite
        if (rows := [row for row in result["rows"] if test is None or row["test"] == test])
    ]
    return max(own, key=lambda result: result["date"], default=None)


def _source(result: dict[str, Any]) -> str:
    return (
        f"{result['processor']}, {result['simd']}, torch {result['torch']}, {result['date'][:10]}, "
        f"commit {result['commit']}"
    )


def _conv_table(result: dict[str, Any]) -> str:
    caption = (
        f"Submanifold 3x3x3 convolution, {result['rows'][0]['scan']}. Speed of the useful "
        f"multiplications relative to `torch.mm` (1024^3, float32) in the same run; medians. "
        f"{_source(result)}."
    )
    columns: Columns = {
        "voxel": lambda row: f"{row['voxel_size_m']} m",
        "pairs per voxel": lambda row: row["pairs_per_voxel"],
        "channels": lambda row: row["channels"],
        "threads": lambda row: row["threads"],
        "forward, ms": lambda row: f"{row['forward']['median_ms']:.1f}",
        "forward / mm": lambda row: f"{row['forward_vs_mm']:.2f}",
        "forward + backward / mm": lambda row: f"{row['train_vs_mm']:.2f}",
        "bf16 / fp32": lambda row: f"{row['bf16_vs_fp32']:.2f}",
    }
    return _markdown(caption, columns, result)


def _map_table(result: dict[str, Any]) -> str:
    def here(row: Row) -> str:
        return f"{(row.get('pyramid') or row['voxelize'])['median_ms']:.1f}"

    columns: Columns = {
        "what": lambda row: row["what"],
        "threads": lambda row: row["threads"],
        "here": here,
        "by hashing": lambda row: f"{row['hash']['median_ms']:.1f}" if "hash" in row else "-",
        "plain torch": lambda row: f"{row['torch']['median_ms']:.1f}",
    }
    return _markdown(f"Maps and voxelisation, ms (medians). {_source(result)}.", columns, result)


def _network_table(result: dict[str, Any]) -> str:
    first = result["rows"][0]
    caption = (
        f"MinkUNet on {first['scan']}, voxels of {first['voxel_size_m']} m, float32, kernel maps "
        f"built in every pass; medians, and how much the memory grows. {_source(result)}."
    )
    columns: Columns = {
        "network": lambda row: row["network"],
        "parameters": _millions,
        "GMACs": lambda row: row["gmacs"],
        "threads": lambda row: row["threads"],
        "inference, ms": lambda row: f"{row['inference']['median_ms']:.0f}",
        "inference / mm": lambda row: f"{row['inference_vs_mm']:.2f}",
        "inference, MB": lambda row: row["inference_peak_mb"],
        "training step, ms": lambda row: f"{row['train']['median_ms']:.0f}",
        "training, MB": lambda row: row["train_peak_mb"],
    }
    return _markdown(caption, columns, result)


def _learning_table(result: dict[str, Any]) -> str:
    caption = (
        f"What the recipe `small`, with finer voxels, learns from real scans of SemanticKITTI. "
        f"{_source(result)}."
    )
    columns: Columns = {
        "test": lambda row: row["test"],
        "trained on": lambda row: row["what"],
        "mean IoU": lambda row: f"{row['miou']:.3f}",
        "classes": lambda row: len(row["iou"]),
        "accuracy": lambda row: f"{row['accuracy']:.3f}",
        "minutes": lambda row: f"{row['minutes']:.0f}",
    }
    return _markdown(caption, columns, result)


def _streets_table(result: dict[str, Any]) -> str:
    caption = (
        "Search under 60 % of the latency of SPVCNN cr 0.5 on simulated streets, voxels of 20 cm: "
        "the network found, the best of as many random ones, and SPVCNN narrowed to the measured "
        "latency of the first. The narrowed one is trained for as many steps as the supernet, "
        "which trains three networks a step, and the found one together; the other two are trained "
        "on three times, with other seeds, and their scores are means. Tested on unseen streets. "
        f"{_source(result)}."
    )
    columns: Columns = {
        "seed": lambda row: row["seed"],
        "network": lambda row: row["network"],
        "latency, ms": lambda row: f"{row['latency_ms']:.0f}",
        "of cr 0.5": lambda row: f"{row['latency_vs_cr_0.5']:.0%}",
        "parameters": _millions,
        **_SCORES,
        "minutes": lambda row: f"{row['minutes']:.0f}",
    }
    return _markdown(caption, columns, {**result, "rows": [*result["rows"], *_means(result)]})


def _means(result: dict[str, Any]) -> list[Row]:
    """Of each kind of network, over the seeds if there are several."""
    if len({row["seed"] for row in result["rows"]}) == 1:
        return []
    kept = ("latency_ms", "latency_vs_cr_0.5", "parameters", "minutes", "miou", "accuracy")
    means: list[Row] = []
    for kind in dict.fromkeys(row["network"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["network"] == kind]
        mean = {key: statistics.fmean(row[key] for row in own) for key in kept}
        means.append({"seed": "mean", "network": kind, **mean})
    return means


def _table_line(result: dict[str, Any]) -> str:
    rows = result["rows"]
    errors = ", ".join(f"{row['median_error']:.1%} and {row['largest_error']:.1%}" for row in rows)
    return (
        f"Error of the latency table of that space over {rows[0]['networks']} networks drawn at "
        f"random, median and largest, of {len(rows)} tables: {errors}. {_source(result)}."
    )


def _nothing_line(result: dict[str, Any]) -> str:
    return "\n".join(
        f"The network found for seed {row['seed']}, trained from nothing for as many steps: mean "
        f"IoU {row['miou']:.3f}, accuracy {row['accuracy']:.3f}. {_source(result)}."
        for row in result["rows"]
    )


def _frames_table(result: dict[str, Any]) -> str:
    caption = (
        "The network found for the first seed and SPVCNN of the same latency, both trained on real "
        "frames of sequence 00, from nothing and from what they learned on simulated streets; "
        f"tested on 08/000000. {_source(result)}."
    )
    columns: Columns = {
        "network": lambda row: row["network"],
        "weights from": lambda row: row["weights_from"],
        "latency, ms": lambda row: f"{row['latency_ms']:.0f}",
        **_SCORES,
        "minutes": lambda row: f"{row['minutes']:.0f}",
    }
    return _markdown(caption, columns, result)


def _ranking_line(result: dict[str, Any]) -> str:
    *networks, over_all = result["rows"]
    return (
        f"Kendall's tau between the scores of {len(networks)} networks in the supernet and trained "
        f"alone on the same streets: {over_all['kendall_tau']:.2f}. {_source(result)}."
    )


def _pruning_table(result: dict[str, Any]) -> str:
    caption = (
        "A trained SPVCNN cr 0.5, pruned to 60 % of its latency by a search and trained on; the "
        "same with equal shares of the channels in all layers; and SPVCNN narrowed, trained from "
        f"nothing for as many steps, about twice those of the whole. Tested on unseen streets. "
        f"{_source(result)}."
    )
    columns: Columns = {
        "network": lambda row: row["network"],
        "latency, ms": lambda row: f"{row['latency_ms']:.0f}",
        "of the whole": lambda row: f"{row['latency_vs_whole']:.0%}",
        "parameters": _millions,
        **_SCORES,
    }
    return _markdown(caption, columns, result)


def _millions(row: Row) -> str:
    return f"{row['parameters'] / 1e6:.2f} M"


_SCORES: Columns = {
    "mean IoU": lambda row: f"{row['miou']:.3f}",
    "accuracy": lambda row: f"{row['accuracy']:.3f}",
}


def _markdown(caption: str, columns: Columns, result: dict[str, Any]) -> str:
    """A caption and a table with a line for each row of the result."""
    lines = [caption, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in result["rows"]:
        lines.append(f"| {' | '.join(str(cell(row)) for cell in columns.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
