# SPDX-License-Identifier: MIT
"""Runs the product's convolution and its dense counterpart on the same case."""

from __future__ import annotations

import clouds
import oracle
import torch
import torch.nn.functional as nnf

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

NAMES = ("output", "input gradient", "weight gradient", "bias gradient")


def sparse(coords, channels=4, *, seed=0, dtype=torch.float64, device="cpu", **options):
    """A tensor with random features on ``coords``."""
    feats = clouds.random_values(len(coords), channels, seed=seed, dtype=dtype)
    return tsl.SparseTensor(feats.to(device), coords.to(device), **options)


def random_weight(kernel, c_in, c_out, *, groups=1, seed=1, dtype=torch.float64):
    """(K, C_in / groups, C_out)."""
    volume = len(oracle.taps_of(kernel))
    return clouds.random_values(volume, c_in // groups, c_out, seed=seed, dtype=dtype)


def in_site_order(tensor, sites) -> torch.Tensor:
    """Features of ``tensor`` in the order of ``sites``, which must be exactly its sites."""
    assert clouds.site_set(tensor.coords.cpu()) == clouds.site_set(sites)
    assert len(tensor) == len(sites)
    return tensor.feats[clouds.row_lookup(tensor.coords.cpu(), sites).to(tensor.device)]


def evaluate(x, sites, weight, bias, grad, **options):
    """Output rows in the order of ``sites`` and the gradients of ``sum(output * grad)``.

    Gradients are those of ``x.feats``, ``weight`` and ``bias``, computed in the dtype and on the
    device of ``x``.
    """
    place = {"dtype": x.dtype, "device": x.device}
    leaves = [t.detach().to(**place).requires_grad_() for t in (x.feats, weight, bias)]
    y = tsf.conv3d(x.replace_feats(leaves[0]), leaves[1], leaves[2], **options)
    out = in_site_order(y, sites)
    return out, *torch.autograd.grad((out * grad.to(**place)).sum(), leaves)


def reference(pairs, feats, num_out, weight, bias, grad, *, groups=1):
    """The same four arrays from the float64 oracle."""
    out = oracle.conv(feats, weight, pairs, num_out, bias=bias, groups=groups)
    return out, *oracle.conv_grads(feats, weight, pairs, grad, groups=groups)


def dense_reference(forward, coords, feats, sites, weight, bias, grad, *, shape, batch_size):
    """The same four arrays from dense torch and its autograd.

    ``forward`` maps (grid, weight, bias) to a grid whose cells ``sites`` are compared.
    """
    leaves = [t.detach().double().cpu().requires_grad_() for t in (feats, weight, bias)]
    grid = oracle.scatter_dense(coords, leaves[0], shape, batch_size)
    out = oracle.gather_dense(forward(grid, *leaves[1:]), sites)
    return out, *torch.autograd.grad((out * grad).sum(), leaves)


def dense_conv(kernel, stride, dilation, padding, groups=1):
    """``forward`` of ``dense_reference`` for a strided convolution."""

    def forward(grid, weight, bias):
        return nnf.conv3d(
            grid,
            oracle.dense_weight(weight, kernel),
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    return forward


def dense_submanifold(kernel, dilation, groups=1):
    """``forward`` for a submanifold convolution: zero padding as torch's padding="same"."""
    size = zip(oracle.triple(kernel), oracle.triple(dilation), strict=True)
    ends = [v for k, d in reversed(list(size)) for v in (d * (k - 1) // 2, -(-d * (k - 1) // 2))]
    conv = dense_conv(kernel, 1, dilation, 0, groups)
    return lambda grid, weight, bias: conv(nnf.pad(grid, ends), weight, bias)


def dense_transposed(kernel, stride, dilation, padding, groups=1, output_padding=0):
    """``forward`` for a transposed convolution."""

    def forward(grid, weight, bias):
        return nnf.conv_transpose3d(
            grid,
            oracle.dense_transposed_weight(weight, kernel, groups),
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            output_padding=output_padding,
        )

    return forward


def compare(actual, expected, dtype):
    """All four arrays within the tolerance of ``dtype``, relative to their largest entry."""
    for name, got, want in zip(NAMES, actual, expected, strict=True):
        tolerance = clouds.TOLERANCE[dtype]
        clouds.assert_close(got, want, tolerance=tolerance, what=f"{name} in {dtype}")


def relation(kernel_map, fine, coarse):
    """A kernel map as a set of (tap, fine site, coarse site)."""
    fine, coarse = fine.cpu().tolist(), coarse.cpu().tolist()
    tap_ptr = kernel_map.tap_ptr.tolist()
    in_index, out_index = kernel_map.in_index.tolist(), kernel_map.out_index.tolist()
    found = {
        (tap, tuple(fine[in_index[p]]), tuple(coarse[out_index[p]]))
        for tap in range(len(tap_ptr) - 1)
        for p in range(tap_ptr[tap], tap_ptr[tap + 1])
    }
    assert len(found) == len(in_index) == kernel_map.num_pairs
    return found


def oracle_relation(fine, coarse, *geometry):
    """The same set from the oracle."""
    fine_sites, coarse_sites = oracle.sites_of(fine.cpu()), oracle.sites_of(coarse.cpu())
    pairs = oracle.pairs_of(fine.cpu(), coarse.cpu(), *geometry)
    return {(tap, fine_sites[f], coarse_sites[c]) for tap, f, c in pairs}
