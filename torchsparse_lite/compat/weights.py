# SPDX-License-Identifier: MIT
"""Weights into a network: renamed, reordered, checked, and only then loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchsparse_lite.compat.files import read_weights, weights_in
from torchsparse_lite.compat.kernels import SOURCES, reorder
from torchsparse_lite.errors import Triple, check_choice, check_type, refuse
from torchsparse_lite.nn.conv import Conv3d

__all__ = ["Rename", "Rule", "State", "load_weights", "read_state"]

Rule = tuple[str, str | Callable[[re.Match[str]], str] | None]
Rename = Callable[[str], str | None] | Iterable[Rule]
State = str | Path | Mapping[str, Any]

_KERNEL: Rule = (r"(^|\.)kernel$", r"\1weight")
_UNWRAP: Rule = (r"(?<=.)\.(?:bn|linear)(?=\.[^.]+$)", "")
_OWN_NAMES: dict[str, tuple[Rule, ...]] = {
    "torchsparse": (_KERNEL,),
    "minkowski_engine": (_KERNEL, _UNWRAP),
}
"""How the layers of a library name what torch's own layers name otherwise."""
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN = 6


def load_weights(
    network: nn.Module,
    state: State,
    *,
    source: str = "torchsparse_lite",
    rename: Rename = (),
    keep: str | None = None,
    reverse_axes: bool = False,
) -> tuple[str, ...]:
    r"""Load the weights of this or of another library into a network, all of them or none.

    Args:
        network: gets the weights; on any device, in any dtype.
        state: a file for :func:`read_weights`, or a mapping of names to tensors, also below one of
            the usual keys (``model``, ``state_dict``, ...) and with the prefixes of
            ``DistributedDataParallel`` and ``torch.compile``.
        source: the library that the weights come from, a name in :data:`SOURCES`. Names of its own
            layers (``kernel``, ``bn.bn``, ``linear.linear``) become torch's before ``rename``.
        rename: from its names to ours: a function that returns the new name, or rules ``(pattern,
            replacement)`` for ``re.sub`` that are applied one after the other. None, as result or
            replacement, leaves the tensor out.
        keep: pattern of the names in ``network`` that keep their values, such as
            ``r"classifier\."``.
        reverse_axes: see :func:`convert_kernel`.

    Returns:
        The names in ``state`` that were left out because of ``rename`` or ``keep``.

    Raises:
        FileNotFoundError: no such file.
        TypeError: ``state`` holds something else than tensors.
        ValueError: names are missing, left over or double, or a shape is wrong. The network is then
            as it was.
    """
    check_choice("load_weights: source", source, SOURCES)
    check_type("load_weights: network", network, nn.Module, "Pass a torch.nn.Module.")
    wanted = network.state_dict()
    stored = _unwrapped(read_state("load_weights", state), wanted)
    origin, left_out = _renamed(stored, [_OWN_NAMES.get(source, ()), rename], keep)
    _check_names(wanted, origin, keep)
    layers = {f"{name}.weight": layer for name, layer in network.named_modules()}
    loaded = {}
    for name, key in origin.items():
        where, layer, value = f"load_weights: {_label(key, name)}", layers.get(name), stored[key]
        size = _kernel_size_of(layer, key, value)
        taps = layer.window.geometry.taps if isinstance(layer, Conv3d) else None
        is_chosen = taps is not None and value.shape == wanted[name].shape
        if size is not None and not is_chosen:
            layout = SOURCES[source].of(size, reverse_axes=reverse_axes)
            value = reorder(where, value, layout, size)
            if taps is not None:  # the layer uses some of the kernel that was stored
                value = value[list(taps)]
        loaded[name] = _fitted(where, value, layer, wanted[name])
    network.load_state_dict({**wanted, **loaded})
    return left_out


def read_state(function: str, state: State) -> dict[str, Tensor]:
    """Names and tensors out of a file or a mapping."""
    if isinstance(state, (str, Path)):
        return read_weights(state)
    return weights_in(function, state)


def _unwrapped(stored: dict[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers add to every name."""

    def has(names: Iterable[str], prefix: str) -> bool:
        return all(name.startswith(prefix) for name in names)

    while stored and (
        found := [p for p in _WRAPPERS if has(stored, p) and not (wanted and has(wanted, p))]
    ):
        stored = {name.removeprefix(found[0]): value for name, value in stored.items()}
    return stored


def _renamed(
    stored: Iterable[str], renames: Iterable[Rename], keep: str | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The stored name behind each of our names, and the stored names that are left out."""
    functions = [rename if callable(rename) else _by_rules(rename) for rename in renames]
    origin: dict[str, str] = {}
    left_out = []
    for key in stored:
        name: str | None = key
        for function in functions:
            name = None if name is None else function(name)
        if name is None or (keep is not None and re.match(keep, name)):
            left_out.append(key)
        elif name in origin:
            refuse(
                "load_weights: rename",
                "one name for one tensor",
                f"{name} for {origin[name]} and {key}",
                "Make the rules more specific, or leave one out with None.",
            )
        else:
            origin[name] = key
    return origin, tuple(left_out)


def _by_rules(rules: Iterable[Rule]) -> Callable[[str], str | None]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str | None:
        for pattern, replacement in compiled:
            if replacement is not None:
                name = pattern.sub(replacement, name)
            elif pattern.search(name):
                return None
        return name

    return rename


def _check_names(wanted: Iterable[str], origin: Mapping[str, str], keep: str | None) -> None:
    names = set(wanted)
    missing = [n for n in wanted if n not in origin and not (keep and re.match(keep, n))]
    left_over = [_label(key, name) for name, key in origin.items() if name not in names]
    if missing or left_over:
        refuse(
            "load_weights: names in state",
            "those of the network",
            f"{_listed(missing)} missing and {_listed(left_over)} left over",
            "Build the network with the shape that the weights were made for, or set source=, "
            "rename= and keep=.",
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})" if names else "none"


def _label(key: str, name: str) -> str:
    return key if key == name else f"{key} for {name}"


def _kernel_size_of(layer: nn.Module | None, key: str, value: Tensor) -> Triple | None:
    """The taps of a stored kernel that goes into this layer, or None if it is no kernel."""
    if isinstance(layer, Conv3d):
        return layer.kernel_size
    is_kernel = value.dim() > 2 or key.rpartition(".")[2] == "kernel"
    return (1, 1, 1) if isinstance(layer, nn.Linear) and is_kernel else None


def _fitted(where: str, value: Tensor, layer: nn.Module | None, wanted: Tensor) -> Tensor:
    """In the shape of the network.

    A convolution with one tap may be a linear layer here, and MinkowskiEngine's biases are (1, C).
    """
    if isinstance(layer, nn.Linear) and value.dim() == 3:
        value = value[0].T
    elif value.shape[:-1] == (1,) and wanted.dim() == 1:
        value = value[0]
    if value.shape != wanted.shape:
        refuse(
            where,
            f"of shape {tuple(wanted.shape)}",
            tuple(value.shape),
            "Build the network with these channels, or leave the layer as it is with keep=.",
        )
    return value
