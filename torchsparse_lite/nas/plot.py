# SPDX-License-Identifier: MIT
"""What a search saw, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torchsparse_lite.errors import needs_extra
from torchsparse_lite.nas.search import SearchResult

__all__ = ["draw_search"]


def draw_search(
    results: Mapping[str, SearchResult], path: Path, *, cost: str, label: str, limit: float
) -> None:
    """Trials by cost and accuracy, the front of each search in these two, and the limit.

    Args:
        results: by the name of the algorithm; trials with the cost and "miou" among their scores.
        path: of the PNG.
        cost: name of the score that is limited.
        label: of its axis.
        limit: of it.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    plt = needs_extra("draw_search", "matplotlib.pyplot", "viz")
    figure, axes = plt.subplots(figsize=(8, 5))
    for (name, result), color in zip(results.items(), ("tab:blue", "tab:orange"), strict=False):
        x = [found.scores[cost] for found in result.trials]
        y = [found.scores["miou"] for found in result.trials]
        axes.scatter(x, y, s=12, alpha=0.35, color=color, label=f"{name}: trials")
        in_two = replace(result, objectives={"miou": True, cost: False})
        front = sorted((f.scores[cost], f.scores["miou"]) for f in in_two.pareto)
        axes.step(*zip(*front, strict=True), where="post", color=color, label=f"{name}: front")
    axes.axvline(limit, color="gray", linestyle="--", label=f"limit {limit:g}")
    axes.set_xlabel(label)
    axes.set_ylabel("mean IoU of the subnet")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
