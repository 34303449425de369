# SPDX-License-Identifier: MIT
"""Windows: what kind of convolution or pooling it is, and which sites it reads and writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import Triple, check_choice, check_type, refuse, triple
from torchsparse_lite.kernel_map import ConvGeometry, KernelMap
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.ops.map_arrays import Pairs
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["Link", "Size", "Target", "Window", "Windowed"]

Size = int | Iterable[int]
Target = SparseTensor | Level
_MAX_TAPS = torch.iinfo(torch.int32).max


@dataclass(frozen=True, eq=False)
class Link:
    """The way from an input to the outputs of a window.

    Attributes:
        kernel_map: which input feeds which output.
        pairs: the map as the operators take it, with its transpose if the input needs a gradient.
        level: the output sites.
        manager: what is known about them.
    """

    kernel_map: KernelMap
    pairs: Pairs
    level: Level
    manager: CoordinateManager

    def outputs(self, feats: Tensor) -> SparseTensor:
        """The features as a tensor at the output sites."""
        return SparseTensor.from_level(feats, self.level, self.manager)


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
        stride: Size | None = None,
        padding: Size | None = None,
        dilation: Size = 1,
        *,
        submanifold: bool | None = None,
        transposed: bool = False,
        generative: bool = False,
        rule: str = "full",
        taps: Iterable[int] | None = None,
    ) -> Window:
        """Fill in what the user left open, and refuse what contradicts itself.

        ``stride=None`` means ``kernel_size``; ``submanifold=None`` means "if the stride is 1 and it
        is not transposed"; ``padding=None`` means "same" if submanifold and else 0.
        """
        check_choice(f"{function}: rule", rule, ("full", "cell"))
        size = triple(f"{function}: kernel_size", kernel_size, minimum=1)
        step = size if stride is None else triple(f"{function}: stride", stride, minimum=1)
        same = ConvGeometry.same(size, triple(f"{function}: dilation", dilation, minimum=1))
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
        if transposed and rule == "cell":
            refuse(
                f"{function}: rule",
                "'full' for a transposed window",
                "'cell'",
                "Leave it out: the rule belongs to the strided window that made the sites.",
            )
        if taps is not None and not submanifold:
            refuse(
                f"{function}: taps",
                "left out unless the window is submanifold",
                tuple(taps),
                "All taps of other windows make sites.",
            )
        geometry = ConvGeometry(
            size, step, same.dilation, pad, None if taps is None else tuple(taps)
        )
        if geometry.kernel_volume > _MAX_TAPS:
            refuse(
                f"{function}: kernel_size",
                f"of at most {_MAX_TAPS} taps",
                size,
                "Use a smaller kernel; a global pool reduces a whole batch element.",
            )
        return cls(geometry, submanifold, transposed, generative, rule)

    def link(self, function: str, x: SparseTensor, target: Target | None) -> Link:
        """The way from ``x`` to its outputs.

        They are at the sites of ``target`` (and then share its manager, if it is a tensor), or at
        those that the window makes of ``x``.
        """
        check_sparse(function, x)
        level, manager = self._outputs(function, x, target)
        if self.transposed:
            kernel_map = x.manager.kernel_map(level, x.level, self.geometry).transposed
        else:
            kernel_map = x.manager.kernel_map(x.level, level, self.geometry)
        wants_gradient = torch.is_grad_enabled() and x.feats.requires_grad
        return Link(kernel_map, kernel_map.pairs(with_backward=wants_gradient), level, manager)

    def _outputs(
        self, function: str, x: SparseTensor, target: Target | None
    ) -> tuple[Level, CoordinateManager]:
        if target is None:
            return self._made_from(x), x.manager
        if isinstance(target, SparseTensor):
            self._check_target(function, x.level, target.level)
            return target.level, target.manager
        self._check_target(function, x.level, target)
        return target, x.manager

    def _made_from(self, x: SparseTensor) -> Level:
        """The output sites of ``x`` without a target."""
        if self.submanifold:
            return x.level
        if self.generative:
            return x.manager.generative(x.level, self.geometry)
        if self.transposed:
            return x.manager.finer(x.level, self.geometry.stride)
        return x.manager.strided(x.level, self.geometry, self.rule)

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


class Windowed(nn.Module):
    """A module with a window, whose numbers it shows as ``torch.nn.Conv3d`` does."""

    window: Window

    @property
    def kernel_size(self) -> Triple:
        """Taps per axis."""
        return self.window.geometry.kernel_size

    @property
    def stride(self) -> Triple:
        """Fine sites per coarse site."""
        return self.window.geometry.stride

    @property
    def padding(self) -> Triple:
        """Fine sites by which the window starts early."""
        return self.window.geometry.padding

    @property
    def dilation(self) -> Triple:
        """Fine sites between taps."""
        return self.window.geometry.dilation
