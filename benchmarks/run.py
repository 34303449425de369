# SPDX-License-Identifier: MIT
"""Run a suite and keep its result: ``python -m benchmarks.run <suite>``.

Writes ``benchmarks/results/<suite>-<machine>-<commit>.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import torchsparse_lite as tsl
from torchsparse_lite.machine import describe_machine

_ROOT = Path(__file__).resolve().parent
SUITES = ("cpu_conv", "cpu_maps", "networks")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=_ROOT / "results", help="folder of the result")
    options = parser.parse_args(arguments)
    kept = tsl.keep_host_memory()
    suite = importlib.import_module(f"benchmarks.suites.{options.suite}")
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for row in suite.run(threads):
            rows.append({"threads": threads, **row})
            print(format_row(rows[-1]), flush=True)
    result = {"suite": options.suite, **environment(), "keep_host_memory": kept, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.suite}-{result['machine_id']}-{result['commit']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


def format_row(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    return "  ".join(f"{key}={_short(value)}" for key, value in row.items() if value is not None)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return f"{value['median_ms']:.3f} ms" if "median_ms" in value else json.dumps(value)
    return str(value)


def environment() -> dict[str, Any]:
    """What a number needs to mean something: machine, versions, commit."""
    machine = describe_machine()
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "machine_id": re.sub(r"[^a-z0-9]+", "-", machine["processor"].lower()).strip("-"),
        **machine,
        "torchsparse_lite": _version(),
    }


def _version() -> str:
    """Of the source tree, which need not be installed."""
    text = (_ROOT.parent / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found.group(1) if found else tsl.__version__


def _commit() -> str:
    """Short commit of the source tree, with ``-dirty`` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
