# SPDX-License-Identifier: MIT
"""Which convolutions of a GPU go to tensor cores, and what travels with them: tested on the CPU."""

from __future__ import annotations

from dataclasses import replace

import clouds
import pytest
import torch
from test_cuda_gemm import kernel_map, operands

from torchsparse_lite import ops
from torchsparse_lite.kernel_map import KernelMap
from torchsparse_lite.ops import dataflow, gemm, sparse_conv
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.dataflow import Dataflow
from torchsparse_lite.ops.map_arrays import GemmView, MapArrays
from torchsparse_lite.ops.sparse_conv import _on_gpu


def pretend_tensor_cores(monkeypatch, otherwise=Dataflow.ON_CPU):
    """Tensor cores on the CPU, for maps with a view."""

    def conv_dataflow(feats, weight=None, groups=1, *, has_view=True):
        return Dataflow.TENSOR_CORES if groups == 1 and has_view else otherwise

    monkeypatch.setattr(dataflow, "conv_dataflow", conv_dataflow)


def with_view(pairs, found):
    """A map's arrays as they are on a GPU."""
    order = torch.arange(found.num_out, dtype=torch.int32)
    view = GemmView(*found.neighbors, order)
    return replace(pairs, forward=MapArrays(pairs.forward.lists, view))


@pytest.fixture
def calls(monkeypatch):
    """A GPU's convolutions on the CPU, with tensor cores that say that they were called."""
    made = []

    def implicit_gemm(feats, packed, table, order, **options):
        made.append((packed, options["out_channels"]))
        return feats.new_zeros((len(order), options["out_channels"]))

    monkeypatch.setattr(gemm, "implicit_gemm", implicit_gemm)
    monkeypatch.setattr(gemm, "pack_weight", lambda weight, **how: how)
    pretend_tensor_cores(monkeypatch, otherwise=Dataflow.PLAIN)
    return made


def test_which_convolutions_go_to_tensor_cores(calls):
    """Those with the view of implicit GEMM; the others are computed plainly, to the same result."""
    found = kernel_map("cpu")
    feats, weight, bias, residual = operands(found, 4, 6, torch.float64, "cpu")
    pairs = found.pairs(with_backward=False)
    view = with_view(pairs, found).forward.flat()
    whole = {"is_symmetric": True, "full_tap": found.full_tap}
    call = ConvCall(feats, weight, bias, residual, view, [], found.num_out, **whole)
    out = _on_gpu(call._replace(mirrored=True))
    assert out.shape == (found.num_out, 6)
    assert calls == [({"transposed": False, "mirrored": True}, 6)]
    adjoint = _on_gpu(call.adjoint(out))
    assert adjoint.shape == (found.num_out, 4)
    assert calls[1:] == [({"transposed": True, "mirrored": True}, 4)]
    plain = _on_gpu(call._replace(pairs=pairs.forward.flat(), relu=True))
    assert len(calls) == 2
    _on_gpu(call._replace(packed=feats))
    assert calls[2][0] is feats  # the packed weight that is given
    expected = sparse_conv(feats, weight, pairs, bias=bias, residual=residual, relu=True)
    clouds.assert_close(plain, expected, tolerance=1e-12)


WRONG = {
    "type": (TypeError, lambda weight: weight.float()),
    "input channels": (ValueError, lambda weight: weight[:, :3]),
    "taps": (ValueError, lambda weight: weight[:26]),
    "device": (ValueError, lambda weight: weight.to("meta")),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_weight_of_another_kind_is_refused(calls, what):
    """Packed, it is but words, and would be read as something else."""
    kind, spoil = WRONG[what]
    found = kernel_map("cpu")
    feats, weight, _, _ = operands(found, 4, 6, torch.float64, "cpu")
    view = with_view(found.pairs(with_backward=False), found).forward.flat()
    with pytest.raises(kind, match="sparse_conv: weight must be"):
        _on_gpu(ConvCall(feats, spoil(weight), None, None, view, [], found.num_out))
    assert calls == []


def test_copies_begin_at_a_whole_word():
    """Rows are copied 16 bytes at a time; what lies otherwise is moved, all else is not."""
    memory = clouds.random_values(4 * 8 + 1, dtype=torch.float16)
    for begin in (0, 1):
        rows = memory[begin : begin + 32].view(4, 8)
        found = gemm._aligned(rows)
        assert found.data_ptr() % 16 == 0
        assert (found.data_ptr() == rows.data_ptr()) == (begin == 0)
        assert torch.equal(found, rows)


@pytest.mark.parametrize("name", ["allow_tf32", "fp32_precision"])
def test_torchs_switch_has_two_names(name):
    switch = torch.backends.cuda.matmul
    if not hasattr(switch, name):
        pytest.skip(f"this torch has no {name}")
    assert not dataflow.allows_tf32()
    try:
        setattr(switch, name, "tf32" if name == "fp32_precision" else True)
        assert dataflow.allows_tf32()
    finally:
        switch.allow_tf32 = False


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
def test_the_view_made_from_pairs_is_the_one_that_was_found(kernel_size):
    found = kernel_map("cpu", kernel_size)
    made = replace(found)  # the pairs alone
    for a, b in zip(made.neighbors, found.neighbors, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert torch.equal(made.window_sizes, found.neighbors.ptr.diff())


def test_the_map_of_one_full_tap_needs_no_search():
    """What linear layers multiply over, against the same map that does not know it."""
    known = KernelMap.identity(70, torch.device("cpu"))
    unknown = replace(known, full_tap=-1)
    for a, b in zip(known.neighbors, unknown.neighbors, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert torch.equal(known.row_order, torch.arange(70, dtype=torch.int32))


def test_each_direction_of_a_map_makes_its_own_arrays_when_it_is_used(monkeypatch):
    """A decoder in inference uses the transposed map alone."""
    made = []
    tile_pairs = ops.tile_pairs
    monkeypatch.setattr(ops, "tile_pairs", lambda *args: made.append(args) or tile_pairs(*args))
    found = kernel_map("cpu", 2)
    backward = found.transposed.pairs(with_backward=False).forward
    assert len(made) == 1
    both = found.transposed.pairs(with_backward=True)
    assert len(made) == 2
    assert found.pairs(with_backward=True).forward is both.backward
    assert found.pairs(with_backward=True).backward is backward is both.forward
    assert len(made) == 2


def test_gradients_pass_the_view_of_implicit_gemm_along():
    """Arrays behind the pair lists get no gradient, and disturb none."""
    found = kernel_map("cpu")
    feats, weight, _, _ = operands(found, 3, 5, torch.float64, "cpu")
    pairs = found.pairs(with_backward=True)
    grads = []
    for given in (pairs, with_view(pairs, found)):
        leaves = [tensor.clone().requires_grad_() for tensor in (feats, weight)]
        grads.append(torch.autograd.grad(sparse_conv(*leaves, given).square().sum(), leaves))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
