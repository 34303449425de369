# SPDX-License-Identifier: MIT
"""What the candidates of a search cost."""

from __future__ import annotations

import torch
from torch import nn

from torchsparse_lite.models.spvcnn import as_spvcnn
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.cost import ScanStatistics, count_scans
from torchsparse_lite.nas.latency import LatencyTable, network_latency
from torchsparse_lite.nas.memory import peak_memory
from torchsparse_lite.nas.supernet import Supernet
from torchsparse_lite.point_grid import edge_lengths
from torchsparse_lite.points import PointTensor

__all__ = ["SubnetCosts"]


class SubnetCosts:
    """Latency and memory of the subnets of a supernet of SPVCNNs.

    Args:
        supernet: whose subnets.
        table: of latencies.
        scan: a typical one.
        is_measured: whether they are timed on this machine, too.
    """

    def __init__(
        self, supernet: Supernet, table: LatencyTable, scan: PointTensor, *, is_measured: bool
    ) -> None:
        self._supernet = supernet
        self._table = table
        self._scan = scan
        self._is_measured = is_measured
        self._predicted: dict[Arch, float] = {}
        self._statistics: dict[tuple[float, float, float], ScanStatistics] = {}

    def latency(self, arch: Arch) -> float:
        """Milliseconds by the table."""
        if arch not in self._predicted:
            with torch.device("meta"):
                network = self._supernet.space.build(arch, **self._supernet.options)
            self._predicted[arch] = self._table.predict(network)
        return self._predicted[arch]

    def measured(self, arch: Arch) -> float:
        """Milliseconds on this machine."""
        network = self._supernet.space.build(arch, **self._supernet.options)
        return network_latency(network, self._scan)

    def of(self, arch: Arch, network: nn.Module) -> dict[str, float]:
        """``latency_ms`` and ``memory_mb``.

        Args:
            arch: of the space.
            network: of this architecture, not fused.
        """
        ms = self.measured(arch) if self._is_measured else self.latency(arch)
        size = edge_lengths("SubnetCosts: voxel_size", as_spvcnn("SubnetCosts", network).voxel_size)
        if size not in self._statistics:
            self._statistics[size] = count_scans([self._scan], size)
        memory = peak_memory(network, [self._statistics[size]])
        return {"latency_ms": ms, "memory_mb": memory / 1e6}
