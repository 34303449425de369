# SPDX-License-Identifier: MIT
"""Released checkpoints into our networks: the names of the peers' layers, as rules.

A rule speaks of stages and blocks by their numbers, so it serves every width and depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn

from torchsparse_lite.compat.weights import Rule, State, load_weights, read_state
from torchsparse_lite.errors import check_choice, check_type, refuse

__all__ = ["load_centerpoint", "load_minkowski_unet", "load_spvnas"]

_NETWORK = "Build one of models first, then load into it."


def _place(text: str, **shifts: int) -> Callable[[re.Match[str]], str]:
    """A replacement: the named groups of the match in ``text``, numbers shifted."""

    def fill(match: re.Match[str]) -> str:
        groups = match.groupdict()
        return text.format(**groups | {k: int(groups[k]) + n for k, n in shifts.items()})

    return fill


def _stem_of_spvnas(match: re.Match[str]) -> str:
    layer, part = divmod(int(match["layer"]), 3)  # convolution, norm, ReLU
    return f"stem.{layer}.{part}."


_BLOCK: tuple[Rule, ...] = (
    (r"(?<=\.)net\.0\.", "first.0."),
    (r"(?<=\.)net\.1\.", "first.1."),
    (r"(?<=\.)net\.3\.", "second.0."),
    (r"(?<=\.)net\.4\.", "second.1."),
    (r"(?<=\.)downsample\.(?=[01]\.)", "shortcut."),
)
_SPVNAS: tuple[Rule, ...] = (
    (r"^stem\.(?P<layer>\d+)\.", _stem_of_spvnas),
    (r"^stage(?P<s>\d+)\.0\.net\.", _place("down.{s}.transition.", s=-1)),
    (r"^stage(?P<s>\d+)\.(?P<b>\d+)\.", _place("down.{s}.blocks.{b}.", s=-1, b=-1)),
    (r"^up(?P<s>\d+)\.0\.net\.", _place("up.{s}.transition.", s=-1)),
    (r"^up(?P<s>\d+)\.1\.", _place("up.{s}.blocks.", s=-1)),
    *_BLOCK,
    (r"^classifier\.0\.", "classifier."),
    (r"^point_transforms\.", "points."),
)
_CONV_AND_NORM: tuple[Rule, ...] = ((r"\.conv\.", ".0."), (r"\.bn\.", ".1."))
_SEARCHED: tuple[Rule, ...] = (
    (r"^stem\.(?P<layer>\d+)\.", _stem_of_spvnas),
    (r"^(down|up)sample\.", r"\1."),
    (r"\.transition\.net\.", ".transition."),
    (r"\.feature\.", ".blocks."),
    (r"(?<=\d)\.downsample\.net\.", ".shortcut."),
    (r"(?<=\d)\.net\.0\.net\.", ".first."),
    (r"(?<=\d)\.net\.1\.net\.", ".second."),
    (r"^point_transforms\.(\d+)\.net\.", r"points.\1."),
    *_CONV_AND_NORM,
    (r"^classifier\.linear\.", "classifier."),
)


def load_spvnas(state: State, network: nn.Module) -> tuple[str, ...]:
    """Load a released checkpoint of SPVNAS.

    Args:
        state: the file ``init`` of the release, or its content: MinkUNet, SPVCNN, or a searched
            SPVNAS. The stored kernels turn with the parity of their taps; both orders are handled.
        network: ``models.minkunet`` or ``models.spvcnn``, in the width of the checkpoint. A
            searched network is what ``nas.spvnas().build`` makes of its ``net.config``: an
            ``SPVCNN`` whose ``UNetShape`` says transitions, middle widths and projections.

    Returns:
        The names left out: the ``point_transforms`` that a released MinkUNet carries unused.

    Raises:
        FileNotFoundError, TypeError, ValueError: see :func:`load_weights`.

    Norms are torch's there and here (eps 1e-5, momentum 0.1), convolutions have no bias, and the
    block ends in a ReLU after the sum, so outputs agree to rounding. Source: mit-han-lab/spvnas,
    ``core/models/semantic_kitti`` and ``core/modules/layers.py``.
    """
    check_type("load_spvnas: network", network, nn.Module, _NETWORK)
    stored = read_state("load_spvnas", state)
    wanted = network.state_dict()
    is_searched = any(".transition.net." in name for name in stored)
    rules = list(_SEARCHED if is_searched else _SPVNAS)
    branches = dict.fromkeys(n.split(".")[1] for n in wanted if n.startswith("points."))
    if branches:  # an SPVCNN around its U-Net; theirs are numbered
        numbers = dict(zip(map(str, range(len(branches))), branches, strict=True))
        rules.append((r"^points\.(\d+)", lambda m: f"points.{numbers.get(m[1], m[1])}"))
        rules.append((r"^(?=(?:stem|down|up)\.)", "unet."))
    else:
        rules.append((r"^points\.", None))
    if is_searched:
        stored = {n: _first_inputs(n, value, wanted) for n, value in stored.items()}
    return load_weights(network, stored, source="torchsparse", rename=rules)


def _first_inputs(name: str, value: Tensor, wanted: dict[str, Tensor]) -> Tensor:
    """The classifier of a searched network is stored at the supernet's width, and cut at use."""
    classifier = wanted.get("classifier.weight")
    if not name.endswith("classifier.linear.weight") or classifier is None:
        return value
    return value[:, : classifier.shape[1]]


_BASIC_BLOCK: tuple[Rule, ...] = (
    (r"(?<=\d)\.conv1\.", ".first.0."),
    (r"(?<=\d)\.(?:norm|bn)1\.", ".first.1."),
    (r"(?<=\d)\.conv2\.", ".second.0."),
    (r"(?<=\d)\.(?:norm|bn)2\.", ".second.1."),
    (r"(?<=\d)\.downsample\.", ".shortcut."),
)


def load_minkowski_unet(state: State, network: nn.Module) -> tuple[str, ...]:
    """Load a MinkUNet of MinkowskiEngine.

    Args:
        state: a file or its content, with the names of MinkowskiEngine's ``examples/minkunet.py``
            (``conv0p1s1``, ``block1.0.conv1``, ``convtr4p16s2``, ``final``).
        network: a ``models.MinkUNet`` of its widths and depths. Preset "34" is the MinkUNet34C;
            MinkUNet18A is ``UNetShape.of((32, 32, 64, 128, 256, 128, 128, 96, 96), (2,) * 8,
            stem_depth=1, stem_kernel=5)``. Blocks with a bottleneck (50, 101) do not exist here.

    Returns:
        The names left out; none.

    Raises:
        FileNotFoundError, TypeError, ValueError: see :func:`load_weights`.

    Norms are torch's there and here, and strided kernels have size 2, for which both stride rules
    agree, so outputs agree to rounding.
    """
    check_type("load_minkowski_unet: network", network, nn.Module, _NETWORK)
    half = len({name.split(".")[1] for name in network.state_dict() if name.startswith("down.")})

    def stage(match: re.Match[str]) -> str:
        number = int(match["s"])
        side, place = ("down", number - 1) if number <= half else ("up", number - half - 1)
        return f"{side}.{place}.blocks."

    rules: tuple[Rule, ...] = (
        (r"^conv0p1s1\.", "stem.0.0."),
        (r"^bn0\.", "stem.0.1."),
        (r"^conv(?P<s>\d+)p\d+s2\.", _place("down.{s}.transition.0.", s=-1)),
        (r"^bn(?P<s>\d+)\.", _place("down.{s}.transition.1.", s=-1)),
        (r"^convtr(?P<s>\d+)p\d+s2\.", _place("up.{s}.transition.0.", s=-half)),
        (r"^bntr(?P<s>\d+)\.", _place("up.{s}.transition.1.", s=-half)),
        (r"^block(?P<s>\d+)\.", stage),
        *_BASIC_BLOCK,
        (r"^final\.", "classifier."),
    )
    return load_weights(network, state, source="minkowski_engine", rename=rules)


_CENTERPOINT: tuple[Rule, ...] = (
    (r"^(?:reader|neck|bbox_head)\.", None),
    (r"^backbone\.", ""),
    (r"^conv_input\.", "stem."),
    (r"^extra_conv\.", "height."),
    (r"^conv1\.(?=\d+\.(?:conv|bn))", "stages.0.blocks."),
    (
        r"^conv(?P<s>\d+)\.(?P<b>\d+)\.(?=conv|bn)",
        _place("stages.{s}.blocks.{b}.", s=-1, b=-3),  # behind convolution, norm, ReLU
    ),
    (r"^conv(?P<s>\d+)\.(?=[01]\.)", _place("stages.{s}.transition.", s=-1)),
    *_BASIC_BLOCK,
)


def load_centerpoint(
    state: State, network: nn.Module, *, source: str = "spconv_1"
) -> tuple[str, ...]:
    """Load the sparse encoder of a CenterPoint checkpoint.

    Args:
        state: a file or its content, with the names of CenterPoint's ``SpMiddleResNetFHD``: of the
            encoder, or of the whole detector.
        network: ``models.bev_encoder``.
        source: the layout of the file, "spconv_1" as released or "spconv".

    Returns:
        The names left out: the other parts of the detector.

    Raises:
        FileNotFoundError, TypeError, ValueError: see :func:`load_weights`.

    Its axes are z, y, x there and x, y, z here; kernels are turned. Its blocks have a bias in front
    of a norm, which means the same as a smaller running mean of that norm; ours have only the mean.
    """
    check_type("load_centerpoint: network", network, nn.Module, _NETWORK)
    check_choice("load_centerpoint: source", source, ("spconv_1", "spconv"))
    stored = _without_block_biases(read_state("load_centerpoint", state))
    return load_weights(network, stored, source=source, rename=_CENTERPOINT, reverse_axes=True)


def _without_block_biases(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network with the biases of its blocks inside the running means."""
    result = dict(stored)
    for name, bias in stored.items():
        match = re.search(r"^(?P<block>.*conv\d+\.\d+\.)conv(?P<n>[12])\.bias$", name)
        mean = f"{match['block']}bn{match['n']}.running_mean" if match else ""
        if mean in stored:
            if stored[mean].shape != bias.shape:
                refuse(
                    f"load_centerpoint: {name}",
                    f"of shape {tuple(stored[mean].shape)} as its norm",
                    tuple(bias.shape),
                    "The checkpoint is damaged: download it again.",
                )
            result[mean] = stored[mean] - result.pop(name)
    return result
