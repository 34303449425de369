# SPDX-License-Identifier: MIT
"""Functions on sparse tensors; the modules of ``torchsparse_lite.nn`` call these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import (
    check_same_device,
    check_shape,
    check_type,
    refuse,
    triple,
)
from torchsparse_lite.features import Features
from torchsparse_lite.nn.window import Link, Size, Target, Window
from torchsparse_lite.ops.registry import computed_dtype
from torchsparse_lite.ops.widen import sum_dtype
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = [
    "apply",
    "avg_pool3d",
    "conv3d",
    "global_avg_pool",
    "global_max_pool",
    "global_sum_pool",
    "max_pool3d",
    "sum_pool3d",
    "unpool3d",
    "upsample",
]


def apply(
    x: SparseTensor, function: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> SparseTensor:
    """Apply a function of (N, C) features row by row; coordinates stay.

    Args:
        x: sparse tensor.
        function: called as ``function(x.feats, *args, **kwargs)``; keeps the number of rows.
        *args: passed on.
        **kwargs: passed on.
    """
    check_sparse("apply", x)
    return x.replace_feats(function(x.feats, *args, **kwargs))


def conv3d(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size | None = None,
    dilation: Size = 1,
    groups: int = 1,
    submanifold: bool | None = None,
    transposed: bool = False,
    generative: bool = False,
    rule: str = "full",
    taps: Iterable[int] | None = None,
    target: Target | None = None,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Sparse convolution.

    The relation of sites is ``fine = stride * coarse + dilation * tap - padding`` per axis, taps
    row-major with z fastest; it is ``torch.nn.functional.conv3d`` restricted to occupied sites.

    Args:
        x: (N, in_channels) sparse tensor.
        weight: (kernel_volume, in_channels / groups, out_channels), dtype of ``x``: from a dense
            weight by ``.permute(2, 3, 4, 1, 0).reshape(kernel_volume, in_channels, out_channels)``.
        bias: (out_channels,) or None.
        kernel_size: taps per axis, any size, even and asymmetric too.
        stride: fine sites per coarse site.
        padding: None means "same" if submanifold and else 0.
        dilation: fine sites between taps.
        groups: channel groups.
        submanifold: outputs are the inputs' sites; None means "if stride is 1 and not transposed".
        transposed: from coarse to fine sites: those that the input was made from, or ``target``.
        generative: a transposed convolution that creates every site it reaches.
        rule: sites of a strided convolution: "full" (every one whose window holds an input, as
            dense convolution and spconv) or "cell" (one per occupied cell, as MinkowskiEngine).
        taps: those of a submanifold kernel that are used, ascending; None for all.
        target: a tensor or level whose sites become the outputs.
        residual: added before the activation; at the outputs' sites.
        relu: apply max(0, .) at the end, in the same pass.

    Returns:
        Sparse tensor at the output sites, dtype of ``x``. New sites come in Morton order.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: channels, shapes, strides, devices or sites do not fit; finer sites are not
            known.
    """
    window = Window.of(
        "conv3d",
        kernel_size,
        stride,
        padding,
        dilation,
        submanifold=submanifold,
        transposed=transposed,
        generative=generative,
        rule=rule,
        taps=taps,
    )
    return convolve(
        x, weight, bias, window, groups=groups, target=target, residual=residual, relu=relu
    )


def convolve(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    *,
    groups: int = 1,
    target: Target | None = None,
    residual: SparseTensor | None = None,
    relu: bool = False,
    packed: ops.PackedWeight | None = None,
) -> SparseTensor:
    """:func:`conv3d` for a window that is already worked out, of a layer that keeps ``packed``."""
    _check_operands(x, weight, bias, window, groups)
    link = window.link("conv3d", x, target)
    if residual is not None:
        _check_residual(residual, x, link, weight.shape[2])
    feats = ops.sparse_conv(
        x.feats,
        weight,
        link.pairs,
        bias=bias,
        residual=None if residual is None else residual.feats,
        groups=groups,
        relu=relu,
        packed=packed,
    )
    return link.outputs(feats)


def _check_operands(
    x: SparseTensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> None:
    check_sparse("conv3d", x)
    remedy = "Its shape is (kernel_volume, in_channels / groups, out_channels)."
    check_type("conv3d: weight", weight, Tensor, remedy)
    volume = window.geometry.kernel_volume
    check_shape("conv3d: weight", weight, (volume, None, None), remedy)
    if groups < 1 or weight.shape[2] % groups:
        refuse(
            "conv3d: groups",
            f"a divisor of the output channels ({weight.shape[2]})",
            groups,
            "Choose another number of groups.",
        )
    if x.num_channels != weight.shape[1] * groups:
        refuse(
            "conv3d: feats",
            f"of shape (num_sites, in_channels) = ({len(x)}, {weight.shape[1] * groups})",
            tuple(x.shape),
            "Match the layer's in_channels to the features.",
        )
    check_like_feats("conv3d: weight", weight, x)
    if bias is not None:
        remedy = "One number per output channel."
        check_type("conv3d: bias", bias, Tensor, remedy)
        check_shape("conv3d: bias", bias, (weight.shape[2],), remedy)
        check_like_feats("conv3d: bias", bias, x)


def check_like_feats(where: str, operand: Tensor, x: Features) -> None:
    """Raise unless ``operand`` is on the device of the features and computed in their dtype."""
    check_same_device(where, operand, x.feats, "the features")
    if operand.dtype != x.dtype and computed_dtype(operand) != computed_dtype(x.feats):
        refuse(
            where,
            f"of the features' dtype {x.dtype}",
            operand.dtype,
            "Convert one of them, or use torch.autocast, which leaves float64 alone.",
            error=TypeError,
        )


def _check_residual(residual: SparseTensor, x: SparseTensor, link: Link, channels: int) -> None:
    remedy = "Project or convolve the shortcut to the same sites first."
    check_type("conv3d: residual", residual, SparseTensor, remedy)
    check_like_feats("conv3d: residual", residual.feats, x)
    level = link.level
    is_there = residual.level is level or (
        residual.stride == level.stride
        and residual.batch_size == level.batch_size
        and torch.equal(residual.coords, level.coords)
    )
    if not is_there or residual.num_channels != channels:
        refuse(
            "conv3d: residual",
            f"at the {len(level)} output sites with {channels} channels, stride {level.stride} "
            f"and batch_size {level.batch_size}",
            repr(residual),
            remedy,
        )


def max_pool3d(
    x: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    *,
    padding: Size | None = None,
    dilation: Size = 1,
    submanifold: bool | None = None,
    rule: str = "full",
    target: Target | None = None,
) -> SparseTensor:
    """Maximum over the occupied sites of each window; empty sites do not count as zero.

    Args:
        x: sparse tensor.
        kernel_size: taps per axis.
        stride: None means ``kernel_size``.
        padding: None means "same" if submanifold and else 0.
        dilation: fine sites between taps.
        submanifold: None means "if stride is 1".
        rule: "full" or "cell", see :func:`conv3d`.
        target: a tensor or level whose sites become the outputs.
    """
    window = Window.of(
        "max_pool3d", kernel_size, stride, padding, dilation, submanifold=submanifold, rule=rule
    )
    return pool("max_pool3d", x, window, target)


def sum_pool3d(
    x: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    *,
    padding: Size | None = None,
    dilation: Size = 1,
    submanifold: bool | None = None,
    rule: str = "full",
    target: Target | None = None,
) -> SparseTensor:
    """Sum over the occupied sites of each window. Arguments as for :func:`max_pool3d`."""
    window = Window.of(
        "sum_pool3d", kernel_size, stride, padding, dilation, submanifold=submanifold, rule=rule
    )
    return pool("sum_pool3d", x, window, target)


def avg_pool3d(
    x: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    *,
    padding: Size | None = None,
    dilation: Size = 1,
    submanifold: bool | None = None,
    rule: str = "full",
    target: Target | None = None,
) -> SparseTensor:
    """Mean over the occupied sites of each window (empty sites do not count).

    Arguments as for :func:`max_pool3d`.
    """
    window = Window.of(
        "avg_pool3d", kernel_size, stride, padding, dilation, submanifold=submanifold, rule=rule
    )
    return pool("avg_pool3d", x, window, target)


def pool(function: str, x: SparseTensor, window: Window, target: Target | None) -> SparseTensor:
    """The pooling ``function`` of this module for a window that is already worked out."""
    link = window.link(function, x, target)
    return link.outputs(_POOLS[function](x.feats, link))


def _max_over(feats: Tensor, link: Link) -> Tensor:
    return ops.sparse_max_pool(feats, link.pairs)[0]


def _sum_over(feats: Tensor, link: Link) -> Tensor:
    return ops.sparse_sum_pool(feats, link.pairs)


def _mean_over(feats: Tensor, link: Link) -> Tensor:
    """Mean of the inputs of each window; half types are rounded once, at the end."""
    wide = feats.to(sum_dtype(feats.dtype))
    total = _sum_over(wide, link)
    counts = link.kernel_map.window_sizes
    return (total / counts.clamp_min(1).unsqueeze(1).to(wide.dtype)).to(feats.dtype)


_POOLS = {
    "max_pool3d": _max_over,
    "sum_pool3d": _sum_over,
    "avg_pool3d": _mean_over,
    "unpool3d": _mean_over,
    "upsample": _mean_over,
}


def unpool3d(
    x: SparseTensor, kernel_size: Size, stride: Size | None = None, *, target: Target | None = None
) -> SparseTensor:
    """Give every finer site the mean of the coarse sites whose windows hold it.

    Args:
        x: coarse sparse tensor.
        kernel_size: window of the pooling to undo.
        stride: None means ``kernel_size``.
        target: the finer sites; by default those that ``x`` was made from.
    """
    window = Window.of("unpool3d", kernel_size, stride, transposed=True)
    return pool("unpool3d", x, window, target)


def upsample(
    x: SparseTensor, scale_factor: Size = 2, *, target: Target | None = None
) -> SparseTensor:
    """Nearest neighbour: every finer site takes the features of the cell it lies in.

    Args:
        x: coarse sparse tensor.
        scale_factor: finer sites per coarse site.
        target: the finer sites; by default those that ``x`` was made from.
    """
    factor = triple("upsample: scale_factor", scale_factor, minimum=1)
    window = Window.of("upsample", factor, transposed=True)
    return pool("upsample", x, window, target)


def _global_pool(function: str, x: SparseTensor, reduce: str) -> Tensor:
    check_sparse(function, x)
    order, ptr = x.level.batch_ptr
    pooled, _ = ops.segment_reduce(x.feats, order, ptr, reduce=reduce)
    return pooled


def global_max_pool(x: SparseTensor) -> Tensor:
    """Maximum per batch element, (batch_size, C); 0 for elements without sites."""
    return _global_pool("global_max_pool", x, "max")


def global_avg_pool(x: SparseTensor) -> Tensor:
    """Mean per batch element, (batch_size, C); 0 for elements without sites."""
    return _global_pool("global_avg_pool", x, "mean")


def global_sum_pool(x: SparseTensor) -> Tensor:
    """Sum per batch element, (batch_size, C)."""
    return _global_pool("global_sum_pool", x, "sum")
