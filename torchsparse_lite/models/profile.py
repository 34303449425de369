# SPDX-License-Identifier: MIT
"""What a network costs on one input: parameters, multiplications, bytes, pairs, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.features import Features
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.window import Target

__all__ = ["LayerProfile", "Profile", "layer_profile", "profile"]


@dataclass(frozen=True)
class LayerProfile:
    """One call of one layer.

    Attributes:
        name: in the network.
        kind: class of the layer.
        parameters: numbers it learns.
        num_in: input rows.
        num_out: output rows.
        pairs: of its kernel map; the rows for a linear layer.
        macs: multiplications with an addition each.
        bytes: inputs, outputs and parameters, each once.
    """

    name: str
    kind: str
    parameters: int
    num_in: int
    num_out: int
    pairs: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Profile:
    """A network on one input.

    Attributes:
        layers: convolutions and linear layers, in the order of their calls.
        parameters: of the whole network, norms included.
    """

    layers: tuple[LayerProfile, ...]
    parameters: int

    @property
    def macs(self) -> int:
        """Multiplications with an addition each, of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes moved if every layer reads its input and writes its output once."""
        return sum(layer.bytes for layer in self.layers)

    def __str__(self) -> str:
        """A table, one line per layer."""
        lines = [
            f"{'layer':44s} {'kind':10s} {'in':>9s} {'out':>9s} {'pairs':>10s} {'MMACs':>9s}"
            f" {'MB':>7s} {'params':>9s}"
        ]
        lines += [
            f"{x.name:44s} {x.kind:10s} {x.num_in:9d} {x.num_out:9d} {x.pairs:10d} "
            f"{x.macs / 1e6:9.1f} {x.bytes / 1e6:7.1f} {x.parameters:9d}"
            for x in self.layers
        ]
        lines.append(
            f"total: {self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMACs, "
            f"{self.bytes / 1e6:.0f} MB"
        )
        return "\n".join(lines)


def profile(model: nn.Module, *inputs: Any) -> Profile:
    """Run the network once, in evaluation mode and without gradients, and count.

    Args:
        model: any network of sparse convolutions and linear layers; left as it is.
        *inputs: what it is called with.

    Counted are the multiplications that a kernel map asks for, ``pairs * in_channels *
    out_channels / groups``, as SPVNAS does; norms, activations, interpolation and torch's own dense
    convolutions are not.
    """
    layers: list[LayerProfile] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Any
        ) -> None:
            target = arguments[1] if len(arguments) > 1 else options.get("target")
            layers.append(_profile_of(name, module, arguments[0], target, output))

        return hook

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, (Conv3d, nn.Linear))
    ]
    was_training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    return Profile(tuple(layers), _numbers(model.parameters()))


def _profile_of(
    name: str, module: nn.Module, source: Any, target: Target | None, output: Any
) -> LayerProfile:
    x, y = _rows(source), _rows(output)
    pairs = len(x)
    if isinstance(module, Conv3d):
        pairs = module.window.link("profile", source, target).kernel_map.num_pairs
    return layer_profile(name, module, len(x), len(y), pairs, bytes_per_number=x.element_size())


def layer_profile(
    name: str,
    module: nn.Module,
    num_in: int,
    num_out: int,
    pairs: int,
    *,
    bytes_per_number: int = 4,
) -> LayerProfile:
    """What a convolution or a linear layer costs.

    Args:
        name: of the layer.
        module: it.
        num_in: rows of its input.
        num_out: rows of its output.
        pairs: of its kernel map; the rows for a linear layer.
        bytes_per_number: of features and weights.
    """
    if isinstance(module, Conv3d):
        inputs, outputs, groups = module.in_channels, module.out_channels, module.groups
    elif isinstance(module, nn.Linear):
        inputs, outputs, groups = module.in_features, module.out_features, 1
    else:
        kind = type(module).__name__
        remedy = "Nothing else is counted."
        refuse("layer_profile: module", "a Conv3d or Linear", kind, remedy, error=TypeError)
    parameters = _numbers(module.parameters())
    moved = num_in * int(inputs) + num_out * outputs + parameters
    return LayerProfile(
        name=name,
        kind=type(module).__name__,
        parameters=parameters,
        num_in=num_in,
        num_out=num_out,
        pairs=pairs,
        macs=pairs * int(inputs) * outputs // groups,
        bytes=moved * bytes_per_number,
    )


def _rows(value: Features | Tensor) -> Tensor:
    return value.feats if isinstance(value, Features) else value


def _numbers(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
