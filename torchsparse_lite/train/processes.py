# SPDX-License-Identifier: MIT
"""Supernets that several processes train together."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from torchsparse_lite.errors import refuse

__all__ = ["check_strategy", "share_statistics"]

_WANTED = "ddp_find_unused_parameters_true"


def check_strategy(strategy: Strategy) -> None:
    """Raise unless processes under this strategy can each train subnets of their own.

    Args:
        strategy: of the trainer, before it has set the module up.

    Raises:
        ValueError: they would wait for gradients, or for statistics of norms, that never come.
    """
    if isinstance(strategy, SingleDeviceStrategy):
        return
    function = "SupernetSegmentation"
    # Lightning has no public way to ask for these before it wraps the module.
    options = strategy._ddp_kwargs if isinstance(strategy, DDPStrategy) else {}
    if not options.get("find_unused_parameters") or options.get("static_graph"):
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        refuse(
            f"{function}: trainer.strategy",
            f"{_WANTED} for several processes",
            f"{type(strategy).__name__}({given})",
            "Each process trains other subnets, so what one leaves out must not be waited for: "
            f"--trainer.strategy={_WANTED}.",
        )
    if getattr(strategy, "_layer_sync", None) is not None:
        refuse(
            f"{function}: trainer.sync_batchnorm",
            "false",
            "true",
            "Each process trains other subnets, whose norms have no like in the others. Leave it "
            "out: a subnet's norms are recalibrated over all processes before it is evaluated.",
        )


@torch.no_grad()
def share_statistics(network: nn.Module, strategy: Strategy) -> None:
    """Replace the running statistics of all norms by their mean over the processes.

    Args:
        network: the same in all processes but for its statistics; changed in place.
        strategy: of the trainer.
    """
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(strategy.reduce(buffer.clone(), reduce_op="mean"))
