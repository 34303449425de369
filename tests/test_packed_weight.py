# SPDX-License-Identifier: MIT
"""What layers keep of their weights between calls of inference, and for how long."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref

import clouds
import pytest
import torch
from test_conv_dispatch import pretend_tensor_cores
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn
from torchsparse_lite.ops import PackedWeight, gemm

CONV = sys.modules["torchsparse_lite.ops.sparse_conv"]  # the package has a function of this name


@pytest.fixture
def packings(monkeypatch):
    """Tensor cores on the CPU, and the widths of each packing; a packed weight is a copy."""
    made = []

    def pack_parts(weight, widths):
        made.append(list(widths))
        return [part.detach().clone() for part in weight.split(list(widths), dim=1)]

    monkeypatch.setattr(gemm, "pack_parts", pack_parts)
    pretend_tensor_cores(monkeypatch)
    return made


def parameter(*shape):
    return nn.Parameter(clouds.random_values(*shape, dtype=torch.float32))


@torch.no_grad()
def test_a_weight_is_packed_once(packings):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    first = packed.of(weight, [2, 3])
    assert [part.shape[1] for part in first] == [2, 3]
    assert packed.of(weight, [2, 3]) is first
    with torch.inference_mode():
        assert packed.of(weight, [2, 3]) is first
    assert packings == [[2, 3]]
    packed.of(weight, [5])
    assert packings == [[2, 3], [5]]


CHANGES = {
    "in place": lambda weight: weight.mul_(2),
    "through a view": lambda weight: weight[0].zero_(),
    "detached": lambda weight: weight.detach().add_(1),
    "loaded": lambda weight: weight.copy_(torch.ones_like(weight)),
    "drawn": lambda weight: nn.init.uniform_(weight, 3, 4),
    "new memory": lambda weight: setattr(weight, "data", weight.data + 1),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changes_are_noticed(packings, change):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    packed.of(weight, [5])
    CHANGES[change](weight)
    assert torch.equal(packed.of(weight, [5])[0], weight)
    assert len(packings) == 2


def cloud(channels=4):
    coords = clouds.surface_coords(12)
    feats = clouds.random_values(len(coords), channels, dtype=torch.float32)
    return tsl.SparseTensor(feats, coords)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_steps_of_optimizers_are_noticed(packings, options, mode):
    """Also of fused ones, which raise no version; and of a layer that learns in evaluation mode."""
    conv = spnn.Conv3d(4, 3, 3).eval()
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.1, **options)
    for step in range(3):
        with torch.no_grad():
            conv(cloud())
            assert torch.equal(conv.packed.of(conv.weight, [4])[0], conv.weight)
        assert len(packings) == step + 1
        conv.train(mode)(cloud()).feats.square().sum().backward()
        optimizer.step()
        conv.eval()


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}])
def test_steps_raise_the_version(packings, options):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    optimizer = torch.optim.AdamW([weight], lr=0.1, **options)
    weight.grad = torch.ones_like(weight)
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(packed.of(weight, [5])[0], weight)
        optimizer.step()


def test_nothing_is_kept_where_a_gradient_is_wanted(packings):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    with torch.no_grad():
        kept = weakref.ref(packed.of(weight, [5])[0])
    assert packed.of(weight, [5]) == []
    gc.collect()
    assert kept() is None
    weight.requires_grad_(False)
    assert packed.of(weight, [5])


@torch.no_grad()
def test_what_is_no_lasting_parameter_is_not_kept(packings, monkeypatch):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    assert packed.of(weight.clone(), [5]) == []
    assert packed.of(weight[:1], [5]) == []
    with torch.inference_mode():
        assert packed.of(nn.Parameter(torch.ones(2, 5, 3)), [5]) == []
    with torch.autocast("cpu"):
        assert packed.of(weight, [5]) == []
    assert not packings


@torch.no_grad()
def test_another_weight_is_another(packings):
    packed, weight = PackedWeight(), parameter(2, 5, 3)
    packed.of(weight, [5])
    other = nn.Parameter(weight * 2)
    assert torch.equal(packed.of(other, [5])[0], other)
    dead = weakref.ref(other)
    del other
    gc.collect()
    assert dead() is None  # what is kept holds no weight


@torch.no_grad()
def test_copies_of_a_layer_begin_without(packings):
    conv = spnn.Conv3d(4, 3, 3).eval()
    first = conv.packed.of(conv.weight, [4])
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert sorted(other.state_dict()) == ["bias", "weight"]
        own = other.packed.of(other.weight, [4])
        assert own is not first
        assert torch.equal(own[0], first[0])
    assert len(packings) == 3


def test_layers_pass_it_to_the_operator(packings, monkeypatch):
    """In inference; a transposed weight, such as that of a linear layer, is packed at each call."""
    given = []
    operator = CONV._sparse_conv

    def recorded(*arguments):
        given.append(arguments[-1])
        return operator(*arguments)

    monkeypatch.setattr(CONV, "_sparse_conv", recorded)
    x = cloud()
    conv = spnn.Conv3d(4, 4, 3).eval()
    with torch.no_grad():
        expected = conv(x)
        assert torch.equal(conv(x).feats, expected.feats)
        spnn.Conv3d(4, 4, 3)(x)
        spnn.Conv3d(4, 4, 3, groups=2).eval()(x)
        spnn.Linear(4, 4).eval()(x)
    conv(x).feats.sum().backward()
    first, second, *others = given
    assert first is second is not None
    assert packings == [[4]]
    assert others == [None, None, None, None]
