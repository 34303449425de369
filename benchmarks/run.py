# SPDX-License-Identifier: MIT
"""Run a suite and keep its result: ``python -m benchmarks.run <suite>``.

Writes ``benchmarks/results/<suite>-<machine>-<commit>.json`` and prints a table. The exit status
says whether every row is there and every check in it was passed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import torchsparse_lite as tsl
from torchsparse_lite.machine import describe_gpu, describe_machine
from torchsparse_lite.timing import CPU
from torchsparse_lite.whole_file import write_whole

_ROOT = Path(__file__).resolve().parent
SUITES = {
    "cpu_conv": ("cpu",),
    "cpu_maps": ("cpu",),
    "layers": ("cpu", "cuda"),
    "networks": ("cpu", "cuda"),
    "peers": ("cpu", "cuda"),
}
"""Devices on which each of them runs."""
_PRODUCT = ("csrc", "torchsparse_lite", "CMakeLists.txt")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, write, print; 1 if a row failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="1 and 2; with a GPU, torch's own")
    parser.add_argument("--out", type=Path, default=_ROOT / "results", help="folder of the result")
    options = parser.parse_args(arguments)
    if options.device not in SUITES[options.suite]:
        parser.error(f"{options.suite} runs on {' and '.join(SUITES[options.suite])} alone")
    device = torch.device(options.device)
    on_cpu = device.type == "cpu"
    kept = tsl.keep_host_memory()
    suite = importlib.import_module(f"benchmarks.suites.{options.suite}")
    rows: list[dict[str, Any]] = []
    for threads in options.threads or ([1, 2] if on_cpu else [torch.get_num_threads()]):
        torch.set_num_threads(threads)
        for row in suite.run(threads, device):
            rows.append({"threads": threads, **row})
            print(format_row(rows[-1]), flush=True)
    about = {**environment(device), "keep_host_memory": kept}
    write_result(options.suite, about, rows, options.out)
    return int(any("failed" in row for row in rows))


def write_result(
    suite: str, about: dict[str, Any], rows: list[dict[str, Any]], folder: Path
) -> None:
    """Write a result where results are, and say so.

    Args:
        suite: that was run.
        about: what :func:`environment` says, and more.
        rows: of all cases. What the file has of other tests and seeds, under ``"test"`` and
            ``"seed"``, stays there.
        folder: of the results.
    """
    path = folder / f"{suite}-{about['machine_id']}-{about['commit']}.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    again = {_case(row) for row in rows}
    kept = [row for row in before if _case(row) not in again]
    result = {"suite": suite, **about, "rows": [*kept, *rows]}
    write_whole("write_result", path, (json.dumps(result, indent=1) + "\n").encode())
    print(f"written: {path}")


def _case(row: dict[str, Any]) -> tuple[Any, Any]:
    return row.get("test"), row.get("seed")


def format_row(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    return "  ".join(f"{key}={_short(value)}" for key, value in row.items() if value is not None)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return f"{value['median_ms']:.3f} ms" if "median_ms" in value else json.dumps(value)
    return str(value)


def environment(device: torch.device = CPU) -> dict[str, Any]:
    """What a number needs to mean something: machine, versions, commit."""
    machine = describe_machine()
    gpu = describe_gpu(device)
    name = gpu.get("gpu", machine["processor"])
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine_id": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        **machine,
        **gpu,
        "torchsparse_lite": _version(),
    }


def _version() -> str:
    """Of the source tree, which need not be installed."""
    text = (_ROOT.parent / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found.group(1) if found else tsl.__version__


def commit() -> str:
    """Short commit of the source tree, with ``-dirty`` if files differ from it.

    A copy without its history takes it from the environment, ``TSL_COMMIT``.
    """
    return _git("describe", "--always", "--dirty", "--exclude", "*") or _named_commit()


def product_commit() -> str:
    """As :func:`commit`, of the last change to what ``tsl`` runs: benchmarks are not part of it."""
    product = ("--", *(str(_ROOT.parent / name) for name in _PRODUCT))
    last = _git("log", "-1", "--format=%h", *product)
    changed = bool(_git("status", "--porcelain", *product))
    return last + "-dirty" * changed or _named_commit()


def _git(*arguments: str) -> str:
    """What it prints; nothing where there is no history."""
    command = ["git", *arguments]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _named_commit() -> str:
    return os.environ.get("TSL_COMMIT", "unknown")


if __name__ == "__main__":
    sys.exit(main())
