# SPDX-License-Identifier: MIT
"""A submanifold 3x3x3 convolution here and in the other libraries that are installed.

The map is at hand in "warm" and made from raw coordinates in "cold". A library takes turns with
ours in the same rounds, after its outputs were compared with ours for the same weight. One that is
not installed has a row that says so. "torch" is the loop over taps that a user would write: gather,
matrix product in the dtype of the features, ``index_add_``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import torchsparse_lite as tsl
from benchmarks.attempt import FAILURES, attempt, in_one_line, largest_error
from benchmarks.scan import load_scan, voxels_of
from benchmarks.suites.layers import TOLERANCE, Layer, make_layer, name_of
from torchsparse_lite.compat import convert_kernel
from torchsparse_lite.timing import CPU, race

VOXEL_SIZES_M = (0.05, 0.2)
CHANNELS = (32, 64, 128)
_KIND = "submanifold 3x3x3"
_DEPTH = 12  # of an octree: 4096 cells along each axis


@dataclass(frozen=True)
class Peer:
    """One library's layer.

    Attributes:
        weight: the layer's, in our order.
        prepare: from raw coordinates to what ``convolve`` takes.
        convolve: to the output in the order of our rows; twice with one argument, it may keep what
            it found out.
    """

    weight: Tensor
    prepare: Callable[[], Any]
    convolve: Callable[[Any], Tensor]


def run(threads: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows by library, voxel size, channels and dtype."""
    scan, points = load_scan()
    for name, peer in PEERS.items():
        missing = _missing(name)
        if missing:
            yield {"peer": name, "absent": missing}
            continue
        for voxel_size in VOXEL_SIZES_M:
            voxels = voxels_of(points, voxel_size)
            about = {"scan": scan, "voxel_size_m": voxel_size, "voxels": len(voxels)}
            for channels in CHANNELS:
                for dtype in TOLERANCE if device != CPU else (torch.float32,):
                    case = {"peer": name, **about, "channels": channels, "dtype": name_of(dtype)}
                    run_one = partial(_row, peer, channels, dtype, voxels, device)
                    yield attempt(case, run_one)


def _missing(name: str) -> str | None:
    """Why the library cannot be used; None if it can."""
    try:
        importlib.import_module(_MODULES[name])
    except FAILURES as error:
        return in_one_line(error)
    return None


def _row(
    make_peer: Callable[[Layer], Peer],
    channels: int,
    dtype: torch.dtype,
    voxels: tsl.SparseTensor,
    device: torch.device,
) -> dict[str, Any]:
    layer = make_layer(_KIND, channels, dtype, voxels, device)
    with torch.no_grad():
        peer = make_peer(layer)
        layer.conv.weight.copy_(peer.weight)
        ready = peer.prepare()
        error = largest_error(peer.convolve(ready), layer.forward())
        contestants = {
            "ours_warm": layer.forward,
            "peer_warm": lambda: peer.convolve(ready),
            "ours_cold": lambda: layer.conv(tsl.SparseTensor(layer.x.feats, layer.x.coords)),
            "peer_cold": lambda: peer.convolve(peer.prepare()),
        }
        times = race(contestants, device=device, budget_s=1.5)
    row = {
        "pairs_per_voxel": round(layer.kernel_map.num_pairs / len(voxels), 2),
        **{name: value.as_dict() for name, value in times.items()},
        "warm_vs_peer": round(times["peer_warm"].median / times["ours_warm"].median, 3),
        "cold_vs_peer": round(times["peer_cold"].median / times["ours_cold"].median, 3),
        "error": float(f"{error:.3g}"),
    }
    # Sums of halves in halves, as some libraries take them, are further away.
    if not error <= 4 * TOLERANCE[dtype]:
        row["failed"] = f"{error:.3g} away from ours"
    return row


def _torch(layer: Layer) -> Peer:
    """The loop that needs no library, over our map."""
    x, conv = layer.x, layer.conv

    def prepare() -> tsl.KernelMap:
        fresh = tsl.SparseTensor(x.feats, x.coords)
        return fresh.manager.submanifold(fresh.level, conv.window.geometry)

    def convolve(kernel_map: tsl.KernelMap) -> Tensor:
        out = x.feats.new_zeros((kernel_map.num_out, conv.out_channels))
        for tap, (begin, end) in enumerate(pairwise(kernel_map.host_tap_ptr.tolist())):
            if begin < end:
                product = x.feats[kernel_map.in_index[begin:end]] @ conv.weight[tap]
                out.index_add_(0, kernel_map.out_index[begin:end], product)
        return out

    return Peer(conv.weight.clone(), prepare, convolve)


def _spconv(layer: Layer) -> Peer:
    """``SubMConv3d`` of spconv 2.2 and later; its coordinates must not be negative."""
    spconv = importlib.import_module("spconv.pytorch")
    x, channels = layer.x, layer.conv.out_channels
    conv = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key="cube")
    conv = conv.to(x.device).to(x.dtype)
    first = x.coords[:, 1:].amin(0)
    shape = (x.coords[:, 1:].amax(0) - first + 1).tolist()

    def prepare() -> Any:
        indices = x.coords.clone()
        indices[:, 1:] -= first
        return spconv.SparseConvTensor(x.feats, indices, shape, 1)

    return Peer(
        convert_kernel(conv.weight.detach(), "spconv", 3), prepare, lambda t: conv(t).features
    )


def _ocnn(layer: Layer) -> Peer:
    """``OctreeConv`` over occupied cells, whose taps are in our order."""
    ocnn = importlib.import_module("ocnn")
    x, channels = layer.x, layer.conv.out_channels
    conv = ocnn.nn.OctreeConv(channels, channels, [3], nempty=True).to(x.device).to(x.dtype)
    cells = 2**_DEPTH
    first = x.coords[:, 1:].amin(0)
    # Middles of the cells, in [-1, 1]; in float64, which tells them apart.
    middles = (x.coords[:, 1:] - first + 0.5).double() * (2 / cells) - 1

    def prepare() -> tuple[Any, Tensor, Tensor]:
        octree = ocnn.octree.Octree(_DEPTH, full_depth=2, batch_size=1, device=x.device)
        place = octree.build_octree(ocnn.octree.Points(middles))
        octree.construct_all_neigh()
        rows = torch.empty_like(place).scatter_(0, place, torch.arange(len(x), device=x.device))
        return octree, place, x.feats[rows]

    def convolve(ready: tuple[Any, Tensor, Tensor]) -> Tensor:
        octree, place, feats = ready
        return conv(feats, octree, _DEPTH)[place]

    return Peer(conv.weights.detach(), prepare, convolve)


PEERS = {"torch": _torch, "spconv": _spconv, "ocnn": _ocnn}
_MODULES = {"torch": "torch", "spconv": "spconv.pytorch", "ocnn": "ocnn"}
