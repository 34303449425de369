# SPDX-License-Identifier: MIT
"""What the candidates of a search cost."""

from __future__ import annotations

import torch

from torchsparse_lite.models.setting import Setting
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.cost import ScanStatistics, count_scans, estimate
from torchsparse_lite.nas.latency import LatencyTable, network_latency
from torchsparse_lite.nas.memory import peak_memory
from torchsparse_lite.nas.supernet import Supernet
from torchsparse_lite.point_grid import edge_lengths
from torchsparse_lite.points import PointTensor

__all__ = ["SubnetCosts"]


class SubnetCosts:
    """Latency, multiplications, parameters and memory of the subnets of a supernet of SPVCNNs.

    Args:
        supernet: whose subnets.
        table: of latencies.
        scan: a typical one.
        setting: where and how subnets are run when they are timed.
        is_measured: whether each candidate is timed on this machine.
    """

    def __init__(
        self,
        supernet: Supernet,
        table: LatencyTable,
        scan: PointTensor,
        setting: Setting,
        *,
        is_measured: bool,
    ) -> None:
        self._supernet = supernet
        self._table = table
        self._scan = scan
        self._setting = setting
        self._is_measured = is_measured
        self._latencies: dict[Arch, float] = {}
        self._gmacs: dict[Arch, float] = {}
        self._statistics: dict[tuple[float, ...], ScanStatistics] = {}

    def latency(self, arch: Arch) -> float:
        """Milliseconds by the table."""
        if arch not in self._latencies:
            self._latencies[arch] = self._table.predict(self._described(arch))
        return self._latencies[arch]

    def gmacs(self, arch: Arch) -> float:
        """Thousand millions of multiplications, with an addition each, on the scan."""
        if arch not in self._gmacs:
            network = self._described(arch)
            macs = estimate(network, [self._counts(network)]).macs
            self._gmacs[arch] = macs / 1e9
        return self._gmacs[arch]

    def measured(self, arch: Arch) -> float:
        """Milliseconds on this machine."""
        network = self._supernet.space.build(arch, **self._supernet.options)
        return network_latency(network, self._scan, self._setting)

    def of(self, arch: Arch) -> dict[str, float]:
        """``latency_ms``, ``gmacs``, ``parameters`` and ``memory_mb``."""
        network = self._described(arch)
        return {
            "latency_ms": self.measured(arch) if self._is_measured else self.latency(arch),
            "gmacs": self.gmacs(arch),
            "parameters": float(sum(p.numel() for p in network.parameters())),
            "memory_mb": peak_memory(network, [self._counts(network)]) / 1e6,
        }

    def _described(self, arch: Arch) -> SPVCNN:
        """The network, without memory for its weights."""
        with torch.device("meta"):
            network = self._supernet.space.build(arch, **self._supernet.options)
        return as_spvcnn("SubnetCosts", network)

    def _counts(self, network: SPVCNN) -> ScanStatistics:
        size = edge_lengths("SubnetCosts: voxel_size", network.voxel_size)
        if size not in self._statistics:
            levels = max(len(network.unet.down), 4) + 1  # the descent to maps goes further down
            self._statistics[size] = count_scans([self._scan], size, levels=levels)
        return self._statistics[size]
