# SPDX-License-Identifier: MIT
"""Functions on sparse tensors; the modules of ``torchsparse_lite.nn`` call these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import check_choice, check_shape, check_type, refuse, triple
from torchsparse_lite.kernel_map import ConvGeometry, KernelMap
from torchsparse_lite.tensor import SparseTensor

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

Size = int | Sequence[int]
Target = SparseTensor | Level


def apply(x: SparseTensor, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> SparseTensor:
    """Apply a function of (N, C) features row by row; coordinates stay.

    Args:
        x: sparse tensor.
        function: called as ``function(x.feats, *args, **kwargs)``; keeps the number of rows.
        *args: passed on.
        **kwargs: passed on.
    """
    check_type("apply: x", x, SparseTensor, "Wrap features and coordinates in a SparseTensor.")
    return x.replace_feats(function(x.feats, *args, **kwargs))


@dataclass(frozen=True)
class Window:
    """What kind of convolution or pooling it is, apart from its weight.

    Attributes:
        geometry: kernel size, stride, dilation and padding, all known.
        submanifold: outputs are the inputs' sites.
        transposed: from coarse to fine.
        generative: a transposed window creates every site that it reaches.
        rule: "full" or "cell", how a strided window chooses its sites.
    """

    geometry: ConvGeometry
    submanifold: bool = False
    transposed: bool = False
    generative: bool = False
    rule: str = "full"

    @classmethod
    def of(
        cls,
        function: str,
        kernel_size: Size,
        stride: Size,
        *,
        padding: Size | None,
        dilation: Size,
        submanifold: bool | None,
        transposed: bool = False,
        generative: bool = False,
        rule: str = "full",
    ) -> Window:
        """Fill in what the user left open, and refuse what contradicts itself.

        ``submanifold=None`` means "if the stride is 1 and it is not transposed"; ``padding=None``
        means "same" if submanifold and else 0.
        """
        check_choice(f"{function}: rule", rule, ("full", "cell"))
        step = triple(f"{function}: stride", stride, minimum=1)
        if submanifold is None:
            submanifold = step == (1, 1, 1) and not transposed
        if submanifold and (transposed or step != (1, 1, 1)):
            refuse(
                f"{function}: submanifold",
                "False for a strided or transposed window",
                "True",
                "Leave it out: stride 1 is submanifold, everything else is not.",
            )
        if generative and not transposed:
            refuse(
                f"{function}: generative",
                "False unless transposed",
                "True",
                "Pass transposed=True as well.",
            )
        same = ConvGeometry.same(kernel_size, dilation)
        if padding is None:
            pad = same.padding if submanifold else (0, 0, 0)
        else:
            pad = triple(f"{function}: padding", padding, minimum=0)
        if submanifold and pad != same.padding:
            refuse(
                f"{function}: padding",
                f"{same.padding} (same) for a submanifold window",
                pad,
                "Leave it out, or pass submanifold=False.",
            )
        geometry = ConvGeometry(same.kernel_size, step, same.dilation, pad)
        return cls(geometry, submanifold, transposed, generative, rule)

    def map_of(
        self, function: str, x: SparseTensor, target: Target | None
    ) -> tuple[KernelMap, Level]:
        """The kernel map from ``x`` to its outputs, and the outputs' level."""
        level, manager, geometry = x.level, x.manager, self.geometry
        sites = target.level if isinstance(target, SparseTensor) else target
        if sites is not None:
            self._check_target(function, level, sites)
        if self.submanifold and sites is None:
            return manager.submanifold(level, geometry), level
        if self.transposed:
            if sites is None:
                find = manager.generative if self.generative else None
                sites = find(level, geometry) if find else manager.finer(level, geometry.stride)
            return manager.kernel_map(sites, level, geometry).transposed, sites
        if sites is None:
            sites = manager.strided(level, geometry, self.rule)
        return manager.kernel_map(level, sites, geometry), sites

    def _check_target(self, function: str, level: Level, target: Level) -> None:
        check_type(f"{function}: target", target, Level, "Pass a SparseTensor or its level.")
        fine, coarse = (target, level) if self.transposed else (level, target)
        wanted = tuple(f * s for f, s in zip(fine.stride, self.geometry.stride, strict=True))
        if coarse.stride != wanted:
            refuse(
                f"{function}: target",
                f"at a tensor stride that is stride {self.geometry.stride} away from the input's "
                f"{level.stride}",
                target.stride,
                "Take the sites from the right level.",
            )
        if target.coords.device != level.coords.device or target.batch_size != level.batch_size:
            refuse(
                f"{function}: target",
                f"on {level.coords.device} with batch_size {level.batch_size}",
                f"{target.coords.device} with {target.batch_size}",
                "Take it from the same batch.",
            )


def _needs_backward(x: SparseTensor) -> bool:
    return torch.is_grad_enabled() and x.feats.requires_grad


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
        target: a tensor or level whose sites become the outputs.
        residual: added before the activation; at the outputs' sites.
        relu: apply max(0, .) at the end, in the same pass.

    Returns:
        Sparse tensor at the output sites, dtype of ``x``. New sites come in Morton order.

    Raises:
        ValueError: channels, shapes, strides or sites do not fit; finer sites are not known.
    """
    check_type("conv3d: x", x, SparseTensor, "Wrap features and coordinates in a SparseTensor.")
    window = Window.of(
        "conv3d",
        kernel_size,
        stride,
        padding=padding,
        dilation=dilation,
        submanifold=submanifold,
        transposed=transposed,
        generative=generative,
        rule=rule,
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
) -> SparseTensor:
    """:func:`conv3d` for a window that is already worked out."""
    _check_operands(x, weight, bias, window, groups)
    kernel_map, level = window.map_of("conv3d", x, target)
    if residual is not None and (
        residual.shape != (len(level), weight.shape[2])
        or (residual.level is not level and not torch.equal(residual.coords, level.coords))
    ):
        refuse(
            "conv3d: residual",
            f"at the {len(level)} output sites with {weight.shape[2]} channels",
            repr(residual),
            "Project or convolve the shortcut to the same sites first.",
        )
    addend = None if residual is None else residual.feats
    if window.submanifold and target is None and len(weight) == 1 and groups == 1:
        feats = torch.nn.functional.linear(x.feats, weight[0].t(), bias)
        feats = feats if addend is None else feats + addend
        feats = feats.relu() if relu else feats
    else:
        pairs = kernel_map.pairs(with_backward=_needs_backward(x))
        feats = ops.sparse_conv(
            x.feats, weight, pairs, bias=bias, residual=addend, groups=groups, relu=relu
        )
    return SparseTensor.from_level(feats, level, x.manager)


def _check_operands(
    x: SparseTensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> None:
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
    if bias is not None:
        check_shape("conv3d: bias", bias, (weight.shape[2],), "One number per output channel.")
    if weight.device != x.device:
        refuse("conv3d: weight", f"on {x.device}", weight.device, "Move the model or the input.")
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        refuse(
            "conv3d: weight",
            f"of the features' dtype {x.dtype}",
            weight.dtype,
            "Convert one of them, or use torch.autocast.",
            error=TypeError,
        )


def _pool(
    function: str, x: SparseTensor, window: Window, target: Target | None
) -> tuple[ops.sparse_pool.Pairs, KernelMap, Level]:
    check_type(f"{function}: x", x, SparseTensor, "Wrap features and coordinates.")
    kernel_map, level = window.map_of(function, x, target)
    return kernel_map.pairs(with_backward=_needs_backward(x)), kernel_map, level


def _pool_window(
    function: str,
    kernel_size: Size,
    stride: Size | None,
    *,
    padding: Size | None,
    dilation: Size,
    submanifold: bool | None,
    rule: str,
) -> Window:
    return Window.of(
        function,
        kernel_size,
        kernel_size if stride is None else stride,
        padding=padding,
        dilation=dilation,
        submanifold=submanifold,
        rule=rule,
    )


def _counts(kernel_map: KernelMap, like: Tensor) -> Tensor:
    """Inputs per output row, at least 1, (num_out, 1)."""
    counts = torch.bincount(kernel_map.out_index, minlength=kernel_map.num_out)
    return counts.clamp_min(1).unsqueeze(1).to(like.dtype)


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
    window = _pool_window(
        "max_pool3d",
        kernel_size,
        stride,
        padding=padding,
        dilation=dilation,
        submanifold=submanifold,
        rule=rule,
    )
    pairs, _, level = _pool("max_pool3d", x, window, target)
    feats, _ = ops.sparse_max_pool(x.feats, pairs)
    return SparseTensor.from_level(feats, level, x.manager)


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
    window = _pool_window(
        "sum_pool3d",
        kernel_size,
        stride,
        padding=padding,
        dilation=dilation,
        submanifold=submanifold,
        rule=rule,
    )
    pairs, _, level = _pool("sum_pool3d", x, window, target)
    feats = ops.sparse_sum_pool(x.feats, pairs)
    return SparseTensor.from_level(feats, level, x.manager)


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
    window = _pool_window(
        "avg_pool3d",
        kernel_size,
        stride,
        padding=padding,
        dilation=dilation,
        submanifold=submanifold,
        rule=rule,
    )
    pairs, kernel_map, level = _pool("avg_pool3d", x, window, target)
    feats = ops.sparse_sum_pool(x.feats, pairs) / _counts(kernel_map, x.feats)
    return SparseTensor.from_level(feats, level, x.manager)


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
    window = Window.of(
        "unpool3d",
        kernel_size,
        kernel_size if stride is None else stride,
        padding=None,
        dilation=1,
        submanifold=None,
        transposed=True,
    )
    pairs, kernel_map, level = _pool("unpool3d", x, window, target)
    feats = ops.sparse_sum_pool(x.feats, pairs) / _counts(kernel_map, x.feats)
    return SparseTensor.from_level(feats, level, x.manager)


def upsample(x: SparseTensor, scale_factor: Size = 2, *, target: Target | None = None) -> SparseTensor:
    """Nearest neighbour: every finer site takes the features of the cell it lies in.

    Args:
        x: coarse sparse tensor.
        scale_factor: finer sites per coarse site.
        target: the finer sites; by default those that ``x`` was made from.
    """
    return unpool3d(x, scale_factor, target=target)


def _global_pool(function: str, x: SparseTensor, reduce: str) -> Tensor:
    check_type(f"{function}: x", x, SparseTensor, "Wrap features and coordinates.")
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
