# SPDX-License-Identifier: MIT
"""Normalisation of features. Statistics are over occupied sites only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite import ops
from torchsparse_lite.errors import check_shape, refuse
from torchsparse_lite.tensor import SparseTensor

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "SyncBatchNorm"]


class BatchNorm(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` over the sites of the whole batch; same arguments and state.

    In training, a batch without any site passes through and leaves the running statistics alone.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise every channel."""
        return x.replace_feats(x.feats if _is_skipped(self, x) else super().forward(x.feats))


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation with statistics over all processes; same state as :class:`BatchNorm`."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise every channel."""
        return x.replace_feats(super().forward(x.feats))

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Replace every batch norm in a model: ours by this class, torch's by torch's own."""
        if isinstance(module, BatchNorm):
            converted = cls(
                module.num_features,
                eps=module.eps,
                momentum=module.momentum,
                affine=module.affine,
                track_running_stats=module.track_running_stats,
                process_group=process_group,
            )
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(converted, name, getattr(module, name))
            converted.training = module.training
            return converted
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            result: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
            return result
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child, process_group))
        return module


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` over the channels of each site."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise every site."""
        return x.replace_feats(super().forward(x.feats))


class GroupNorm(nn.Module):
    """Group normalisation per batch element: over its sites and the channels of a group.

    Args:
        num_groups: groups of channels.
        num_channels: a multiple of ``num_groups``.
        eps: added to the variance.
        affine: learn a scale and a shift per channel.

    Source: Wu and He, "Group Normalization", ECCV 2018; a sample's result does not depend on its
    batch mates.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, *, affine: bool = True
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            refuse(
                "GroupNorm: num_groups",
                f"a positive divisor of num_channels ({num_channels})",
                num_groups,
                "Choose another number of groups.",
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise every batch element."""
        remedy = "Match num_channels to the features."
        check_shape("GroupNorm: feats", x.feats, (None, self.num_channels), remedy)
        batch = x.coords[:, 0].long()
        feats = x.feats.float() if x.dtype in (torch.float16, torch.bfloat16) else x.feats
        centred = feats - self._group_mean(x, feats).index_select(0, batch)
        variance = self._group_mean(x, centred.square()).index_select(0, batch)
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None and self.bias is not None:
            normal = normal * self.weight + self.bias
        return x.replace_feats(normal.to(x.dtype))

    def _group_mean(self, x: SparseTensor, values: Tensor) -> Tensor:
        """(batch_size, C): the mean over the element's sites and the channel's group."""
        order, ptr = x.level.batch_ptr
        means, _ = ops.segment_reduce(values, order, ptr, reduce="mean")
        size = self.num_channels // self.num_groups
        return means.view(-1, self.num_groups, size).mean(2).repeat_interleave(size, dim=1)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class InstanceNorm(GroupNorm):
    """Instance normalisation: every channel of every batch element by itself.

    Args:
        num_features: channels.
        eps: added to the variance.
        affine: learn a scale and a shift per channel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__(num_features, num_features, eps, affine=affine)


def _is_skipped(norm: nn.BatchNorm1d, x: SparseTensor) -> bool:
    """Batch statistics of nothing do not exist; torch raises, an empty cloud is legal here."""
    return len(x) == 0 and (norm.training or not norm.track_running_stats)
