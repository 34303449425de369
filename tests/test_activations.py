# SPDX-License-Identifier: MIT
"""Activations against torch's own, and to the last bit whatever the threads and the batch mates."""

from __future__ import annotations

import clouds
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn

LAYERS = {
    "ELU": {"alpha": 0.7},
    "GELU": {},
    "Hardsigmoid": {},
    "Hardswish": {},
    "Identity": {},
    "LeakyReLU": {"negative_slope": 0.1},
    "Mish": {},
    "PReLU": {},
    "ReLU": {},
    "ReLU6": {},
    "SiLU": {},
    "Sigmoid": {},
    "Softplus": {"beta": 0.5, "threshold": 10},
    "Tanh": {},
}
CASES = [*LAYERS.items(), ("GELU", {"approximate": "tanh"}), ("Softplus", {})]
SMOOTH = [case for case in CASES if case[0] in {"ELU", "GELU", "Mish", "SiLU", "Sigmoid"}]
SMOOTH.append(("Softplus", {}))
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def test_every_activation_is_here():
    assert sorted(LAYERS) == sorted(set(spnn.activation.__all__) - {"Dropout"})


def on(feats):
    return tsl.PointTensor(feats, torch.zeros(len(feats), 3))


def values(dtype):
    """Small and large ones, infinities and both zeros."""
    ends = torch.tensor([0.0, -0.0, 1e-4, -1e-4, 30, -30, 300, -300, float("inf"), -float("inf")])
    drawn = 3 * clouds.random_values(200, 5, seed=3)
    return torch.cat([drawn, ends.double().view(-1, 5)]).to(dtype)


def step(layer, feats):
    """Output and gradient of one call."""
    leaf = feats.clone().requires_grad_()
    out = layer(leaf)
    (grad,) = torch.autograd.grad(out.double().clamp(-1e3, 1e3).square().sum(), leaf)
    return out.detach(), grad


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_are_torchs(name, options, dtype):
    """Values and gradients, also where exponentials would overflow."""
    own = getattr(spnn, name)(**options).to(dtype)
    torchs = getattr(torch.nn, name)(**options).to(dtype)
    found = step(lambda f: own(on(f)).feats, values(dtype))
    expected = step(torchs, values(dtype))
    eps = torch.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        is_defined = ~b.isnan()  # torch's own is not, for some at infinity
        torch.testing.assert_close(a[is_defined], b[is_defined], rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_are_bitwise(threads, name, options, dtype):
    """For any number of threads, and for a few rows alone."""
    layer = getattr(spnn, name)(**options).to(dtype)
    feats = 3 * clouds.random_values(20011, 7, dtype=dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(step(lambda f: layer(on(f)).feats, feats))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    few = slice(5, 24)
    alone = step(lambda f: layer(on(f)).feats, feats[few])
    assert all(torch.equal(a, b[few]) for a, b in zip(alone, results[0], strict=True))


@pytest.mark.parametrize(("name", "options"), SMOOTH)
def test_smooth_activations_can_be_differentiated_twice(name, options):
    layer = getattr(spnn, name)(**options)
    leaf = clouds.random_values(6, 3).requires_grad_()
    assert gradcheck(lambda f: layer(on(f)).feats, leaf)
    assert gradgradcheck(lambda f: layer(on(f)).feats, leaf)


def test_nan_stays():
    feats = torch.full((1, 1), float("nan"))
    for name, options in CASES:
        assert getattr(spnn, name)(**options)(on(feats)).feats.isnan().all(), name


def test_coordinates_level_and_manager_stay():
    x = tsl.SparseTensor(torch.ones(4, 2), clouds.surface_coords(3)[:4])
    for name, options in CASES:
        y = getattr(spnn, name)(**options)(x)
        assert y.level is x.level
        assert y.manager is x.manager
