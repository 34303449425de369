# SPDX-License-Identifier: MIT
"""``tsl benchmark``: latency of networks on the machine at hand, and tiles for its GPU."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from torchsparse_lite import models
from torchsparse_lite._native import has_cuda
from torchsparse_lite.cli import TRAINING
from torchsparse_lite.cli.contest import Contestant, Standing, measure
from torchsparse_lite.cli.doctor import installed_version
from torchsparse_lite.cli.progress import bar
from torchsparse_lite.cli.tune import tune_networks
from torchsparse_lite.data.cards import card_names, load_card
from torchsparse_lite.data.samples import points_of
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.data.scan_file import read_scan_file
from torchsparse_lite.data.simulate.boxes import scan_boxes
from torchsparse_lite.data.simulate.drive_through import simulate_scan
from torchsparse_lite.data.simulate.raycast import ray_caster_name
from torchsparse_lite.errors import check_choice, needs_extra, refuse
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.models.setting import DTYPES, Setting
from torchsparse_lite.whole_file import write_whole

__all__ = ["benchmark"]

_NETWORKS: dict[str, Callable[[str, float, float], nn.Module]] = {
    "minkunet": lambda preset, width, size: models.OnPoints(
        models.minkunet(preset, width=width), size
    ),
    "spvcnn": lambda preset, width, size: models.spvcnn(preset, width=width, voxel_size=size),
}
"""By name; of a preset, a width and a voxel size in metres."""
_DTYPES = {**DTYPES, "tf32": torch.float32}
_SIM = "denser than a real one (a truer one: pip install 'torchsparse_lite[sim]')"


def benchmark(arguments: list[str]) -> None:
    """Latency of networks on this machine, one scan at a time; they take turns."""
    options = _parser().parse_args(arguments)
    _check(options)
    setting = _setting(options)
    keep_host_memory()
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads_before)
        scan = _scan(options)
        contestants = _contestants(options, scan.scan)
        if options.tune is not None:
            tune_networks(contestants, setting.device, options.tune)
            return
        standings = measure(contestants, setting, budget_s=options.seconds, progress=bar)
        about = _about(options, setting, scan)
    finally:
        torch.set_num_threads(threads_before)
    print(_table(about, standings))
    if options.json is not None:
        content = {**about, "rows": [standing.as_dict() for standing in standings]}
        write_whole("benchmark", options.json, (json.dumps(content, indent=1) + "\n").encode())
        print(f"written to {options.json}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tsl benchmark", description=benchmark.__doc__)
    add = parser.add_argument
    help_ = f"{', '.join(_NETWORKS)}; all of them, unless --run names one"
    add("--network", nargs="+", default=[], metavar="NAME", help=help_)
    add("--width", type=float, nargs="+", default=[1.0], help="factors on all channels")
    add("--preset", choices=models.PRESETS, default="42", help="depth of the networks")
    add("--voxel-size", type=float, default=0.05, metavar="METRES")
    add("--run", nargs="+", default=[], metavar="FOLDER", help="trained networks, by their runs")
    add("--checkpoint", help="of the run; by default its best")
    add("--scan", type=Path, help=".bin file; by default a simulated street")
    cards = ", ".join(card_names())
    add("--card", default="semantickitti", help=f"of the scan: {cards}, or a file of your own")
    add("--seed", type=int, default=0, help="of the simulated street")
    add("--device", choices=("cpu", "cuda"), help="by default cpu, and cuda for --tune")
    add("--dtype", choices=_DTYPES, default="float32", help="tf32: float32 on tensor cores")
    add("--threads", type=int, help="of the CPU; by default torch's own choice")
    add("--fused", action=argparse.BooleanOptionalAction, default=True, help="fold the norms")
    add("--seconds", type=float, default=5.0, help="of timing for each network, roughly")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    help_ = "measure instead which tiles of the GPU are the fastest for these networks, in halves "
    help_ += "and in TF32, and write or extend a table of them for TSL_GEMM_TILES"
    files.add_argument("--tune", type=Path, metavar="FILE", help=help_)
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in options.network:
        check_choice("benchmark: --network", name, _NETWORKS)
    numbers: dict[str, tuple[Sequence[float], float]] = {
        "width": (options.width, 0.05),
        "voxel-size": ([options.voxel_size], 0.001),
        "threads": ([] if options.threads is None else [options.threads], 1),
        "seed": ([options.seed], 0),
        "seconds": ([options.seconds], 0),
    }
    for name, (values, least) in numbers.items():
        for value in values:
            if not least <= value < float("inf"):
                remedy = "See tsl benchmark --help."
                refuse(f"benchmark: --{name}", f"a number from {least:g} on", value, remedy)
    if options.checkpoint is not None and len(options.run) != 1:
        remedy = "Give the run that it belongs to: --run FOLDER."
        refuse("benchmark: --checkpoint", "of a single run", f"{len(options.run)} runs", remedy)


def _setting(options: argparse.Namespace) -> Setting:
    """Where and how; raises where this machine cannot."""
    name = options.device or ("cpu" if options.tune is None else "cuda")
    if name == "cpu":
        if options.tune is not None:
            remedy = "Tiles are those of tensor cores: leave --device out."
            refuse("benchmark: --tune", "with --device cuda", "--device cpu", remedy)
        if options.dtype == "tf32":
            remedy = "It is a type of tensor cores: take float32."
            refuse("benchmark: --dtype", "another with --device cpu", "tf32", remedy)
        return Setting(torch.device("cpu"), _DTYPES[options.dtype], options.fused)
    flag = "--device cuda" if options.tune is None else "--tune"
    if not torch.cuda.is_available():
        remedy = "Run it where there is one; tsl doctor says what a machine has."
        rule, actual = "on a machine with a GPU", "none that torch can use"
        refuse(f"benchmark: {flag}", rule, actual, remedy, error=RuntimeError)
    if not has_cuda():
        remedy = "Install nvcc and reinstall with TSL_CUDA=ON."
        rule, actual = "in a build with its CUDA part", "one without"
        refuse(f"benchmark: {flag}", rule, actual, remedy, error=RuntimeError)
    torch.backends.cuda.matmul.allow_tf32 = options.dtype == "tf32" and not options.tune
    device = torch.device("cuda", torch.cuda.current_device())
    return Setting(device, _DTYPES[options.dtype], options.fused)


class _Read(NamedTuple):
    """A scan.

    Attributes:
        scan: its points.
        text: which one it is.
        load_ms: milliseconds of reading; None where nothing was read.
    """

    scan: Scan
    text: str
    load_ms: float | None


def _scan(options: argparse.Namespace) -> _Read:
    if options.scan is None:
        return _street(options.seed)
    card = load_card(options.card)
    start = time.perf_counter()
    scan = read_scan_file(options.scan, card)
    if not len(scan):
        remedy = "Give a scan with points."
        refuse(f"benchmark: {options.scan}", "a scan of at least a point", "none", remedy)
    return _Read(scan, str(options.scan), (time.perf_counter() - start) * 1e3)


def _street(seed: int) -> _Read:
    """As dense as a real scan where there is a ray caster, else made by the core alone."""
    try:
        ray_caster_name()
    except RuntimeError:
        rows, text = scan_boxes(seed), f"street of boxes {seed}, {_SIM}"
    else:
        rows, text = simulate_scan(seed)[0], f"simulated street {seed}"
    return _Read(Scan(rows[:, :3].copy(), rows[:, 3].copy()), text, None)


def _contestants(options: argparse.Namespace, scan: Scan) -> list[Contestant]:
    """Those of the command line, with the points of the scan."""
    names = options.network or ([] if options.run else list(_NETWORKS))
    size, found = options.voxel_size, []
    for name in dict.fromkeys(names):
        for width in dict.fromkeys(options.width):
            network = _NETWORKS[name](options.preset, width, size)
            found.append(Contestant(f"{name} {width:g}", network, points_of(scan)))
    for folder in dict.fromkeys(options.run):
        for package in TRAINING:
            needs_extra("tsl benchmark --run", package, "train")
        # Here and not above: the core alone has no Lightning, and needs none for the rest.
        load = import_module("torchsparse_lite.cli.trained").load_trained
        network, features = load(folder, options.checkpoint)
        found.append(Contestant(folder, network, points_of(scan, features)))
    return found


def _about(options: argparse.Namespace, setting: Setting, scan: _Read) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "torchsparse_lite": installed_version("torchsparse_lite"),
        **setting.describe(),
        "device": setting.device.type,
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "fused": setting.is_fused,
        "preset": options.preset,
        "voxel_size_m": options.voxel_size,
        "scan": scan.text,
        "points": len(scan.scan),
        "load_ms": None if scan.load_ms is None else round(scan.load_ms, 4),
    }


def _table(about: dict[str, Any], standings: Sequence[Standing]) -> str:
    load = "" if about["load_ms"] is None else f", read in {about['load_ms']:.1f} ms"
    fused = "fused" if about["fused"] else "not fused"
    where = about.get("gpu") or f"{about['processor']}, {about['simd']}"
    threads = f"{about['threads']} thread{'s' * (about['threads'] > 1)}"
    width = max(len("network"), *(len(standing.name) for standing in standings))
    stages = list(standings[0].stages)
    head = f"{'network':{width}s} {'voxels':>8s} {'pairs/voxel':>11s} {'params, M':>9s} "
    head += f"{'GMACs':>7s} {'ms':>8s} {'quartiles':>17s}"
    head += "".join(f" {stage:>10s}" for stage in stages) + f" {'peak, MB':>8s}"
    return "\n".join(
        [
            f"scan     {about['scan']}, {about['points']} points{load}",
            f"machine  {where}, {threads}, torch {about['torch']}",
            f"network  {about['dtype']}, {fused}",
            "",
            head,
            *(_line(standing, width) for standing in standings),
        ]
    )


def _line(x: Standing, width: int) -> str:
    quartiles = f"{_ms(x.times.low)} to {_ms(x.times.high)}"
    text = f"{x.name:{width}s} {x.voxels:8d} {x.pairs_per_voxel:11.2f} {x.parameters / 1e6:9.2f} "
    text += f"{x.macs / 1e9:7.1f} {_ms(x.times.median):>8s} {quartiles:>17s}"
    text += "".join(f" {_ms(ms):>10s}" for ms in x.stages.values())
    return text + f" {'-' if x.peak_mb is None else x.peak_mb:>8}"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
