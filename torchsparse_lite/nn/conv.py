# SPDX-License-Identifier: MIT
"""Convolution layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.nn import functional as F
from torchsparse_lite.nn.window import Size, Target, Window, Windowed
from torchsparse_lite.ops import PackedWeight
from torchsparse_lite.tensor import SparseTensor

__all__ = ["Conv3d"]

_Conv = TypeVar("_Conv", bound="Conv3d")


class Conv3d(Windowed):
    """Sparse convolution of every kind: submanifold, strided, transposed, generative.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps per axis, any size, even and asymmetric such as ``(3, 1, 1)`` too.
        stride: fine sites per coarse site.
        padding: None means "same" if submanifold and else 0.
        dilation: fine sites between taps.
        groups: channel groups; ``groups=in_channels=out_channels`` is a depthwise convolution.
        bias: add a learned number per output channel.
        submanifold: outputs are the inputs' sites; None means "if stride is 1 and not transposed".
        transposed: from coarse to fine sites: those that the input was made from, or ``target``.
        generative: a transposed convolution that creates every site it reaches.
        rule: sites of a strided convolution: "full" (dense convolution, spconv) or "cell"
            (MinkowskiEngine); only "full" for a transposed one.
        taps: those of a submanifold kernel that are used, counted row-major with z fastest,
            ascending; None for all. See :data:`~torchsparse_lite.STENCILS`.

    Attributes:
        weight: (kernel_volume, in_channels / groups, out_channels); from a dense weight by
            ``dense.permute(2, 3, 4, 1, 0).reshape(kernel_volume, in_channels // groups, -1)``.
        bias: (out_channels,) or None.
        kernel_size, stride, padding, dilation: one number per axis, read-only.

    A 2D convolution is a 3D one with a flat z: coordinates z = 0 and kernel (k, k, 1).
    """

    def __init__(  # noqa: PLR0917 - the signature of torch.nn.Conv3d
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,  # noqa: FBT001, FBT002 - as in torch.nn.Conv3d
        *,
        submanifold: bool | None = None,
        transposed: bool = False,
        generative: bool = False,
        rule: str = "full",
        taps: Iterable[int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if (
            min(in_channels, out_channels, groups) < 1
            or in_channels % groups
            or out_channels % groups
        ):
            refuse(
                "Conv3d: groups",
                "a positive divisor of in_channels and out_channels",
                f"{groups} for {in_channels} and {out_channels}",
                "Choose other channel counts or groups.",
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.window = Window.of(
            "Conv3d",
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
        shape = (self.window.geometry.kernel_volume, in_channels // groups, out_channels)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self._packed = PackedWeight()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from +-1/sqrt(fan_in), as ``torch.nn.Conv3d`` does."""
        fan_in = self.weight.shape[0] * self.weight.shape[1]
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self,
        x: SparseTensor,
        target: Target | None = None,
        *,
        residual: SparseTensor | None = None,
        relu: bool = False,
    ) -> SparseTensor:
        """Convolve.

        Args:
            x: (N, in_channels) sparse tensor.
            target: a tensor or level whose sites become the outputs.
            residual: added before the activation; at the outputs' sites.
            relu: apply max(0, .) at the end, in the same pass.
        """
        return F.convolve(
            x,
            self.weight,
            self.bias,
            self.window,
            groups=self.groups,
            target=target,
            residual=residual,
            relu=relu,
            packed=self.packed,
        )

    @property
    def packed(self) -> PackedWeight | None:
        """What it keeps of its weight for tensor cores: in evaluation mode, and no state."""
        return None if self.training else self._packed

    def train(self: _Conv, mode: bool = True) -> _Conv:  # noqa: FBT001, FBT002 - as in torch.nn.Module
        """Set the mode, and forget what was kept of the weight."""
        self._packed.forget()
        return super().train(mode)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}",
            f"stride={self.stride}",
            f"padding={self.padding}",
        ]
        if self.dilation != (1, 1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        parts += [
            f"{name}=True"
            for name in ("submanifold", "transposed", "generative")
            if getattr(self.window, name)
        ]
        if self.window.rule != "full":
            parts.append(f"rule={self.window.rule!r}")
        if self.window.geometry.taps is not None:
            parts.append(f"taps={len(self.window.geometry.taps)} of {math.prod(self.kernel_size)}")
        return ", ".join(parts)
