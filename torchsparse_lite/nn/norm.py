# SPDX-License-Identifier: MIT
"""Normalisation of features. Statistics are over occupied sites (or points) only.

Parameters that see no site get zero gradients, not none, as distributed training demands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite import ops
from torchsparse_lite.errors import refuse
from torchsparse_lite.features import Rows, check_rows
from torchsparse_lite.ops.all_reduce import all_reduce, has_processes
from torchsparse_lite.ops.widen import sum_dtype
from torchsparse_lite.sizes import check_exact
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "SyncBatchNorm"]


class BatchNorm(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` over the sites of the whole batch; same arguments and state.

    In training, a batch without any site leaves the running statistics alone.
    """

    def forward(self, x: Rows) -> Rows:  # type: ignore[override]
        """Normalise every channel."""
        check_rows("BatchNorm", x, self.num_features)
        if self.training or self.running_mean is None or self.running_var is None:
            check_exact("BatchNorm: feats", x.sizes)
            return x.replace_feats(self._by_own_statistics(x.feats))
        scale = torch.rsqrt(self.running_var.double() + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -self.running_mean * scale
        shift = shift if self.bias is None else shift + self.bias
        return x.replace_feats(ops.scale_shift(x.feats, scale, shift))

    def _by_own_statistics(self, feats: Tensor) -> Tensor:
        count = feats.shape[0]
        if count == 1 and self.training:
            remedy = "Use larger batches, GroupNorm, or eval()."
            refuse("BatchNorm: feats", "of more than one site in training", count, remedy)
        out, mean, variance = ops.batch_norm(feats, self.weight, self.bias, eps=self.eps)
        if self.training and self.track_running_stats and count > 0:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        return out

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if share is None else share
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value.to(running.dtype), share or 0.0)


class SyncBatchNorm(BatchNorm):
    """Batch normalisation with statistics over all processes; same state as :class:`BatchNorm`.

    Unlike torch's own it also runs on the CPU, where processes talk through gloo.

    Args:
        num_features: channels.
        process_group: whose statistics; by default those of all processes.
        options: those of :class:`BatchNorm`.
    """

    def __init__(self, num_features: int, *, process_group: Any = None, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.process_group = process_group

    def forward(self, x: Rows) -> Rows:  # type: ignore[override]
        """Normalise every channel."""
        check_rows("SyncBatchNorm", x, self.num_features)
        if self.training and has_processes():
            check_exact("SyncBatchNorm: feats", x.sizes)
            return x.replace_feats(self._by_statistics_of_all(x.feats))
        return super().forward(x)

    def _by_statistics_of_all(self, feats: Tensor) -> Tensor:
        wide = feats.to(sum_dtype(feats.dtype))
        own, _ = ops.column_sums(wide)
        total = all_reduce(torch.cat([own, own.new_tensor([len(wide)])]), self.process_group)
        count = total[-1].detach()
        if count == 1:
            remedy = "Use larger batches, GroupNorm, or eval()."
            refuse("SyncBatchNorm: feats", "of more than one site in training", 1, remedy)
        mean = total[:-1] / count.clamp_min(1)
        centred = ops.scale_shift(wide, torch.ones_like(mean), -mean)
        _, squares = ops.column_sums(centred, centred)
        variance = all_reduce(squares, self.process_group) / count.clamp_min(1)
        if self.track_running_stats and count > 0:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        normal = ops.scale_shift(centred, torch.rsqrt(variance + self.eps))
        return _affine(normal, self.weight, self.bias).to(feats.dtype)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Replace every batch norm in a model: ours by this class, torch's by torch's own."""
        if isinstance(module, cls):
            return module
        if isinstance(module, BatchNorm):
            converted = cls(
                module.num_features,
                process_group=process_group,
                eps=module.eps,
                momentum=module.momentum,
                affine=module.affine,
                track_running_stats=module.track_running_stats,
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
    """``torch.nn.LayerNorm`` over the channels of each site; same arguments and state."""

    def forward(self, x: Rows) -> Rows:  # type: ignore[override]
        """Normalise every site."""
        check_rows("LayerNorm", x, *self.normalized_shape)
        feats = x.feats.to(sum_dtype(x.dtype))
        normal = nn.functional.layer_norm(feats, self.normalized_shape, eps=self.eps)
        return x.replace_feats(_affine(normal, self.weight, self.bias).to(x.dtype))


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
        check_sparse(type(self).__name__, x, self.num_channels)
        batch = x.coords[:, :1].long()
        feats = x.feats.to(sum_dtype(x.dtype))
        ones = feats.new_ones(batch.shape)
        centred = feats - ops.interpolate(self._group_mean(x, feats), batch, ones)
        variance = self._group_mean(x, centred.square())
        normal = centred * ops.interpolate(torch.rsqrt(variance + self.eps), batch, ones)
        return x.replace_feats(_affine(normal, self.weight, self.bias).to(x.dtype))

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


def _affine(feats: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return feats if weight is None else ops.scale_shift(feats, weight, bias)
