# SPDX-License-Identifier: MIT
"""What the documents show works: the README's example and table, and every example file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torchsparse_lite as tsl
from benchmarks import report
from benchmarks.scan import voxels_of
from torchsparse_lite.data.simulate import scan_boxes
from torchsparse_lite.timing import race

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))


def run_python(*arguments: str) -> str:
    """Run in a fresh process where warnings are errors; returns what it printed."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_example_runs() -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert re.search(r"\d+ voxels, \d+ coarse ones, loss \d", run_python("-c", block.group(1)))


def test_search_example_runs() -> None:
    page = (ROOT / "docs" / "search.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "40 genes" in run_python("-c", block)


@pytest.mark.parametrize("library", ["torchsparse", "spconv", "minkowskiengine"])
def test_weight_conversions_shown_run(library: str) -> None:
    page = (ROOT / "docs" / f"coming_from_{library}.md").read_text()
    section = page[page.index("## Weights") :]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    run_python("-c", "".join(blocks))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str) -> None:
    assert run_python(f"examples/{name}").strip()


def test_readme_table_is_that_of_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert report.with_table(readme) == readme, "run python -m benchmarks.report"


def test_committed_results_say_where_they_come_from() -> None:
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert paths
    for path in paths:
        result = json.loads(path.read_text())
        assert not result["commit"].endswith("-dirty"), path.name
        for key in ("suite", "date", "processor", "simd", "torch", "python", "rows"):
            assert result[key], (path.name, key)


def test_simulated_scan_has_the_density_of_a_real_one() -> None:
    voxels = voxels_of(scan_boxes(), 0.1)
    level = voxels.level
    pairs = voxels.manager.submanifold(level, tsl.ConvGeometry.same(3)).num_pairs
    assert 20_000 < len(voxels) < 200_000
    assert 4.0 < pairs / len(voxels) < 11.0  # a real one has 6


def test_race_takes_turns_and_reports_medians() -> None:
    calls: list[str] = []
    times = race(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        budget_s=0.0,
        min_repeats=3,
    )
    assert calls == ["a", "b"] * 5
    assert times["a"].repeats == 3
    assert times["a"].low <= times["a"].median <= times["a"].high
