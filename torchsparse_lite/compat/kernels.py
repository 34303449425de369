# SPDX-License-Identifier: MIT
"""How other libraries store the weights of a convolution, and the way into our order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from torchsparse_lite.errors import Triple, check_choice, check_type, refuse, triple
from torchsparse_lite.nn.window import Size

__all__ = ["SOURCES", "KernelLayout", "convert_kernel", "reorder"]

_AXES = "xyz"
_OURS = "xyzio"


@dataclass(frozen=True)
class KernelLayout:
    """The axes of a stored kernel, outermost first.

    The letters are x, y, z for the taps along the first, second and third coordinate, i for input
    and o for output channels; the taps may also be stored as one axis. All libraries here compute
    cross-correlations, and number the taps of a transposed convolution as those of its partner.

    Attributes:
        odd: of kernels with an odd number of taps.
        even: of kernels with an even number of taps; ``odd`` if None.
    """

    odd: str
    even: str | None = None

    def of(self, kernel_size: Triple, *, reverse_axes: bool = False) -> str:
        """The letters for this size; with ``reverse_axes`` the peer calls our z the first axis."""
        is_even = math.prod(kernel_size) % 2 == 0
        letters = self.even if is_even and self.even is not None else self.odd
        return letters.translate(str.maketrans("xz", "zx")) if reverse_axes else letters


SOURCES = {
    "torchsparse_lite": KernelLayout(_OURS),
    "torchsparse": KernelLayout("zyxio", even="xyzio"),
    "minkowski_engine": KernelLayout("zyxio"),
    "spconv": KernelLayout("oxyzi"),
    "spconv_2_0": KernelLayout("xyzoi"),
    "spconv_1": KernelLayout("xyzio"),
}
"""By library. Versions: TorchSparse 1.4 to 2.1, MinkowskiEngine 0.5, spconv 2.2 and later (KRSC),
2.0 (RSKC) and 1.x (RSCK). TorchSparse up to 1.2 agrees for kernels given as one number."""


def convert_kernel(
    weight: Tensor, source: str, kernel_size: Size = 3, *, reverse_axes: bool = False
) -> Tensor:
    """The weight of a convolution, from another library's order into ours.

    Submanifold, strided, transposed and inverse convolutions are all converted this way.

    Args:
        weight: as stored; the taps on three axes or on one. Size 1 may lack its tap axis, and a
            channelwise kernel of MinkowskiEngine its input channels.
        source: a name in :data:`SOURCES`.
        kernel_size: of our layer, per axis x, y, z.
        reverse_axes: the layer there had columns batch, z, y, x and here has batch, x, y, z.

    Returns:
        (taps, in_channels / groups, out_channels), z fastest; a new tensor.

    Raises:
        TypeError: ``weight`` is no tensor.
        ValueError: an unknown source, or a shape that does not hold these taps.

    Source: the peers' own code: ``get_kernel_offsets`` of TorchSparse (the order turns with the
    parity of the volume), ``SparseConvolution`` of spconv; MinkowskiEngine 0.5.4 measured.
    """
    check_choice("convert_kernel: source", source, SOURCES)
    check_type("convert_kernel: weight", weight, Tensor, "Pass the stored parameter.")
    size = triple("convert_kernel: kernel_size", kernel_size, minimum=1)
    layout = SOURCES[source].of(size, reverse_axes=reverse_axes)
    return reorder("convert_kernel: weight", weight, layout, size)


def reorder(where: str, weight: Tensor, layout: str, kernel_size: Triple) -> Tensor:
    """A kernel of this layout, see :class:`KernelLayout`, as (taps, in, out).

    Args:
        where: ``"<function>: <argument>"``.
        weight: as stored.
        layout: its axes.
        kernel_size: per axis x, y, z.

    Raises:
        ValueError: the shape does not fit the layout.
    """
    extent = dict(zip(_AXES, kernel_size, strict=True))
    taps = math.prod(kernel_size)
    first = min(layout.index(axis) for axis in _AXES)
    stored = weight.unsqueeze(1) if _is_channelwise(weight, layout, taps) else weight
    last = stored.dim() - (len(layout) - first - len(_AXES))
    found = tuple(stored.shape[first:last])
    wanted = tuple(extent[axis] for axis in layout if axis in _AXES)
    if last < first or math.prod(found) != taps or (len(found) > 1 and not _same(found, wanted)):
        shape = ", ".join(str(extent.get(axis, axis)) for axis in layout)
        refuse(
            where,
            f"laid out as ({shape}), its {taps} taps on one axis or on three",
            tuple(weight.shape),
            "Check source=, reverse_axes= and the kernel size of the layer.",
        )
    grid = stored.reshape(*stored.shape[:first], *wanted, *stored.shape[last:])
    return grid.permute([layout.index(axis) for axis in _OURS]).flatten(0, 2).clone()


def _is_channelwise(weight: Tensor, layout: str, taps: int) -> bool:
    """Whether it is (taps, channels), as MinkowskiEngine stores a depthwise convolution."""
    return weight.dim() == 2 and taps > 1 and layout.endswith("io")


def _same(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal; a 2D layer lacks an axis of one tap."""
    if len(found) == len(wanted):
        return found == wanted
    return [n for n in found if n > 1] == [n for n in wanted if n > 1]
