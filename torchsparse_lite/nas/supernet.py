# SPDX-License-Identifier: MIT
"""All networks of a search space in one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.sharing import holds, layouts_of, take, union
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.spaces import search_space

__all__ = ["Supernet"]

_DOT = "/"  # a module's own tensors have no dots in their names


class Supernet(nn.Module):
    """Weights that every network of a search space takes its own from.

    A subnet is a plain network, made from its description alone, whose tensors are parts of the
    shared ones. So what the supernet computes as a subnet, and what the network copied out of it
    computes, is the same to the last bit, and gradients reach the shared weights.

    Args:
        space: whose networks these are; or its ``kind`` and options, as for
            :func:`~torchsparse_lite.nas.search_space`.
        **options: of the networks, such as ``in_channels`` and ``num_classes``.

    Source: weights shared by leading channels as in Tang et al., "Searching Efficient 3D
    Architectures with Sparse Point-Voxel Convolution", ECCV 2020.
    """

    def __init__(self, space: SearchSpace | dict[str, Any], **options: Any) -> None:
        super().__init__()
        space = space if isinstance(space, SearchSpace) else search_space(**space)
        self.space = space
        self.options = options
        skeletons = [self._skeleton(arch) for arch in space.covering()]
        self.layouts = union(layouts_of(network) for network in skeletons)
        for arch, network in zip(space.covering(), skeletons, strict=True):
            self._keep_new(arch, network)
        missing = self.layouts.keys() - self.tensors.keys()
        if missing:
            remedy = "Add a structure in which they are at their largest."
            rule = "a cover of every layer at full size"
            refuse(f"Supernet: structures of space {space.name}", rule, min(missing), remedy)
        self.set_active_subnet(next(iter(space.covering())))

    def _skeleton(self, arch: Arch) -> nn.Module:
        """The network, without memory for its weights."""
        with torch.device("meta"):
            return self.space.build(arch, **self.options)

    def _keep_new(self, arch: Arch, network: nn.Module) -> None:
        """Initialise what this network has at full size and no earlier one had."""
        layouts = layouts_of(network)
        known = self.tensors.keys()
        new = [
            name
            for name, layout in layouts.items()
            if layout == self.layouts[name] and name not in known
        ]
        if not new:
            return
        parameters = dict(network.named_parameters()).keys()
        made = self.space.build(arch, **self.options).state_dict()
        for name in new:
            tensor = made[name]
            if name in parameters:
                self.register_parameter(name.replace(".", _DOT), nn.Parameter(tensor))
            else:
                self.register_buffer(name.replace(".", _DOT), tensor)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Shared parameters and buffers, by their names in the networks."""
        shared = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {key.replace(_DOT, "."): tensor for key, tensor in shared.items()}

    @property
    def active(self) -> Arch:
        """The architecture that ``forward`` computes."""
        return self._active

    @property
    def subnet(self) -> nn.Module:
        """The active subnet as it is described; its tensors have no memory."""
        network: nn.Module = self.__dict__["_network"]
        return network

    def set_active_subnet(self, arch: Arch) -> None:
        """Compute as this architecture from now on.

        Args:
            arch: of the space.

        Raises:
            ValueError: it is none of the space, or has a layer that its structures have not, or
                not as large.
        """
        network = self._skeleton(arch)
        wanted = layouts_of(network)
        foreign = [
            name
            for name, layout in wanted.items()
            if name not in self.layouts or not holds(self.layouts[name], layout)
        ]
        if foreign:
            remedy = "Add a structure that has it to the space."
            rule = f"of layers that the structures of space {self.space.name} have in full"
            refuse("Supernet.set_active_subnet: arch", rule, min(foreign), remedy)
        self._active = arch
        self._wanted = wanted
        # Not a child: its tensors have no memory.
        self.__dict__["_network"] = network.train(self.training)

    def train(self, mode: bool = True) -> Supernet:  # noqa: FBT001, FBT002 - as in torch
        """As ``nn.Module.train``; the active subnet follows."""
        super().train(mode)
        self.__dict__["_network"].train(mode)
        return self

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the active subnet computes; see its own ``forward``."""
        return functional_call(self.__dict__["_network"], self._parts(), inputs, options)

    def _parts(self) -> dict[str, Tensor]:
        tensors = self.tensors
        return {
            name: take(tensors[name], self.layouts[name], layout)
            for name, layout in self._wanted.items()
        }

    @torch.no_grad()
    def load_largest(self, network: nn.Module) -> None:
        """Take over the weights of a network that is the space's largest.

        Raises:
            ValueError: it is another one.
        """
        given, own = network.state_dict(), self.tensors
        wrong = [n for n in {**given, **own} if n not in given or n not in own]
        wrong += [n for n in given if n in own and given[n].shape != own[n].shape]
        if wrong:
            rule = f"the largest of space {self.space.name}"
            remedy = "Build it with space.build(space.largest)."
            refuse("Supernet.load_largest: network", rule, f"one with another {wrong[0]}", remedy)
        for name, tensor in own.items():
            tensor.copy_(given[name])

    def get_active_subnet(self) -> nn.Module:
        """The active subnet as a plain network with weights of its own, where the supernet is.

        It is in training or evaluation as the supernet is. Its norms have the statistics of all
        subnets; give it its own with :func:`~torchsparse_lite.nas.calibrate.recalibrate`.
        """
        parts = {name: part.detach().clone() for name, part in self._parts().items()}
        network = self.space.build(self._active, **self.options)
        network.to(next(iter(parts.values())).device).load_state_dict(parts)
        return network.train(self.training)
