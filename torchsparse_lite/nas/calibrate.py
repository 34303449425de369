# SPDX-License-Identifier: MIT
"""Statistics of batch norms for weights that were trained in many networks at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torchsparse_lite.errors import refuse

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(network: nn.Module, inputs: Iterable[tuple[Any, ...]]) -> None:
    """Replace the running statistics of all batch norms by the mean over these inputs.

    Norms of a subnet carry statistics of whatever widths were trained last; without this a good
    subnet scores like a bad one.

    Args:
        network: changed in place; everything but its norms is as in evaluation, which is the mode
            it ends in.
        inputs: arguments of the network, a tuple for each batch.

    Raises:
        ValueError: there is no input.

    Source: Cai et al., "Once-for-All", ICLR 2020 (``set_running_statistics``).
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    count = 0
    try:
        for arguments in inputs:
            network(*arguments)
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
    if not count:
        refuse("recalibrate: inputs", "at least one batch", "none", "Give some training batches.")
