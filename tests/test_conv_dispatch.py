# SPDX-License-Identifier: MIT
"""Which convolutions of a GPU go to tensor cores, and what travels with them: tested on the CPU."""

from __future__ import annotations

from dataclasses import replace

import clouds
import pytest
import torch
from test_cuda_gemm import kernel_map, operands

from torchsparse_lite.ops import gemm, sparse_conv
from torchsparse_lite.ops.sparse_conv import _sparse_conv_cuda as on_cuda


@pytest.fixture
def calls(monkeypatch):
    """The CUDA operator on the CPU, with tensor cores that say that they were called."""
    made = []

    def implicit_gemm(feats, packed, table, order, **options):
        made.append((packed, options["out_channels"]))
        return feats.new_zeros((len(order), options["out_channels"]))

    monkeypatch.setattr(gemm, "implicit_gemm", implicit_gemm)
    monkeypatch.setattr(gemm, "pack_weight", lambda weight, **how: how)
    monkeypatch.setattr(gemm, "fits", lambda feats, groups: groups == 1)
    return made


def test_which_convolutions_go_to_tensor_cores(calls):
    """Those with the view of implicit GEMM; the others are computed plainly, to the same result."""
    found = kernel_map("cpu")
    feats, weight, bias, residual = operands(found, 4, 6, torch.float64, "cpu")
    pairs = found.pairs(with_backward=False)
    order = torch.arange(found.num_out, dtype=torch.int32)
    view = [*pairs.forward, *found.neighbors, order]
    arguments = (found.num_out, 1, True, found.full_tap)
    flags = (False, True, False, None, None)
    out = on_cuda(feats, weight, bias, residual, view, [], *arguments, *flags)
    assert out.shape == (found.num_out, 6)
    assert calls == [({"transposed": False, "mirrored": True}, 6)]
    flags = (True, False, False, None, None)
    adjoint = on_cuda(out, weight, None, None, view, [], *arguments, *flags)
    assert adjoint.shape == (found.num_out, 4)
    assert calls[1:] == [({"transposed": True, "mirrored": False}, 4)]
    flags = (False, False, True, None, None)
    plain = on_cuda(feats, weight, bias, residual, list(pairs.forward), [], *arguments, *flags)
    assert len(calls) == 2
    on_cuda(feats, weight, None, None, view, [], *arguments, *flags[:-1], feats)
    assert calls[2][0] is feats  # the packed weight that is given
    expected = sparse_conv(feats, weight, pairs, bias=bias, residual=residual, relu=True)
    clouds.assert_close(plain, expected, tolerance=1e-12)


def test_gradients_pass_the_view_of_implicit_gemm_along():
    """Arrays behind the pair lists get no gradient, and disturb none."""
    found = kernel_map("cpu")
    feats, weight, _, _ = operands(found, 3, 5, torch.float64, "cpu")
    pairs = found.pairs(with_backward=True)
    order = torch.arange(found.num_out, dtype=torch.int32)
    longer = replace(pairs, forward=(*pairs.forward, *found.neighbors, order))
    grads = []
    for given in (pairs, longer):
        leaves = [tensor.clone().requires_grad_() for tensor in (feats, weight)]
        grads.append(torch.autograd.grad(sparse_conv(*leaves, given).square().sum(), leaves))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
