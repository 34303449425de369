# SPDX-License-Identifier: MIT
"""Batch norm over all processes, for Lightning."""

from __future__ import annotations

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import nn

from torchsparse_lite.nn.norm import SyncBatchNorm

__all__ = ["SyncNorms"]


class SyncNorms(LayerSync):
    """Plugin for the Trainer in place of ``sync_batchnorm``, which knows torch's norms only."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace all batch norms."""
        return SyncBatchNorm.convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave them: outside of training they do the same."""
        return model
