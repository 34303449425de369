# SPDX-License-Identifier: MIT
"""Write the README's table from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def newest(suite: str) -> dict[str, Any] | None:
    """The latest committed result of a suite."""
    results = [json.loads(path.read_text()) for path in (_ROOT / "results").glob(f"{suite}-*.json")]
    return max(results, key=lambda result: result["date"], default=None)


def table() -> str:
    """Markdown of all suites."""
    tables = {
        "cpu_conv": _conv_table,
        "cpu_maps": _map_table,
        "networks": _network_table,
        "real_scans": _learning_table,
    }
    results = [(make, newest(suite)) for suite, make in tables.items()]
    parts = [make(result) for make, result in results if result is not None]
    return "\n\n".join(parts) or "No result is committed yet: `python -m benchmarks.run cpu_conv`."


def _source(result: dict[str, Any]) -> str:
    return (
        f"{result['processor']}, {result['simd']}, torch {result['torch']}, {result['date']}, "
        f"commit {result['commit']}"
    )


def _conv_table(result: dict[str, Any]) -> str:
    lines = [
        f"Submanifold 3x3x3 convolution, {result['rows'][0]['scan']}. Speed of the useful "
        f"multiplications relative to `torch.mm` (1024^3, float32) in the same run; medians. "
        f"{_source(result)}.",
        "",
        "| voxel | pairs per voxel | channels | threads | forward, ms | forward / mm | "
        "forward + backward / mm | bf16 / fp32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['voxel_size_m']} m | {row['pairs_per_voxel']} | {row['channels']} | "
        f"{row['threads']} | {row['forward']['median_ms']:.1f} | {row['forward_vs_mm']:.2f} | "
        f"{row['train_vs_mm']:.2f} | {row['bf16_vs_fp32']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _map_table(result: dict[str, Any]) -> str:
    lines = [
        f"Maps and voxelisation, ms (medians). {_source(result)}.",
        "",
        "| what | threads | here | by hashing | plain torch |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        here = row.get("pyramid") or row["voxelize"]
        hashed = f"{row['hash']['median_ms']:.1f}" if "hash" in row else "-"
        lines.append(
            f"| {row['what']} | {row['threads']} | {here['median_ms']:.1f} | {hashed} | "
            f"{row['torch']['median_ms']:.1f} |"
        )
    return "\n".join(lines)


def _network_table(result: dict[str, Any]) -> str:
    first = result["rows"][0]
    lines = [
        f"MinkUNet on {first['scan']}, voxels of {first['voxel_size_m']} m, float32, kernel maps "
        f"built in every pass; medians, and how much the memory grows. {_source(result)}.",
        "",
        "| network | parameters | GMACs | threads | inference, ms | inference / mm | MB | "
        "training step, ms | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['network']} | {row['parameters'] / 1e6:.2f} M | {row['gmacs']} | "
        f"{row['threads']} | "
        f"{row['inference']['median_ms']:.0f} | {row['inference_vs_mm']:.2f} | "
        f"{row['inference_peak_mb']} | {row['train']['median_ms']:.0f} | {row['train_peak_mb']} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _learning_table(result: dict[str, Any]) -> str:
    lines = [
        f"What the recipe `small` learns from real scans of SemanticKITTI, from nothing, on a CPU. "
        f"{_source(result)}.",
        "",
        "| test | trained on | mean IoU | classes | accuracy | minutes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['test']} | {row['what']} | {row['miou']:.3f} | {len(row['iou'])} | "
        f"{row['accuracy']:.3f} | {row['minutes']:.0f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
