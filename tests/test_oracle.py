# SPDX-License-Identifier: MIT
"""The oracle against dense torch: what the other tests lean on is proven first."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import clouds
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as nnf

SHAPE = (6, 5, 7)
BATCH = 2
GEOMETRIES = [
    (k, s, d, p)
    for k, s, d, p in itertools.product(
        (1, 2, 3, (3, 1, 2)), (1, 2, (2, 1, 3)), (1, 2), (0, 1, (0, 1, 2))
    )
    if min(oracle.output_shape(SHAPE, k, s, d, p)) > 0
]


def dense_pair(groups, c_in=4, c_out=8):
    coords = clouds.box_coords(SHAPE, 40, batch_size=BATCH, seed=1)
    feats = clouds.random_values(len(coords), c_in, seed=2)
    return coords, feats, (c_in // groups, c_out)


def check(actual, expected):
    clouds.assert_close(actual, expected, tolerance=1e-12)


def test_imports_nothing_from_the_product():
    tree = ast.parse(Path(oracle.__file__).read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert names == {"__future__", "itertools", "numpy", "torch"}


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 4])
def test_conv_and_gradients(kernel, stride, dilation, padding, groups):
    """Sites, values and all three gradients of a strided convolution equal dense conv3d's."""
    coords, feats, block = dense_pair(groups)
    volume = len(oracle.taps_of(kernel))
    weight = clouds.random_values(volume, *block, seed=3)
    bias = clouds.random_values(block[1], seed=4)
    args = (kernel, stride, dilation, padding)
    sites = oracle.coarse_sites(coords, *args, spatial_shape=SHAPE)
    pairs = oracle.pairs_of(coords, sites, *args)

    leaves = [t.clone().requires_grad_() for t in (feats, weight, bias)]
    grid = oracle.scatter_dense(coords, leaves[0], SHAPE, BATCH)
    dense = nnf.conv3d(
        grid,
        oracle.dense_weight(leaves[1], kernel),
        leaves[2],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    expected = oracle.gather_dense(dense, sites)
    check(oracle.conv(feats, weight, pairs, len(sites), bias=bias, groups=groups), expected)

    without_bias = dense - leaves[2].reshape(1, -1, 1, 1, 1)
    assert int((without_bias.abs() > 1e-12).any(dim=1).sum()) <= len(sites)

    grad = clouds.random_values(*expected.shape, seed=5)
    wanted = torch.autograd.grad((expected * grad).sum(), leaves)
    for got, want in zip(
        oracle.conv_grads(feats, weight, pairs, grad, groups=groups), wanted, strict=True
    ):
        check(got, want)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 4])
def test_transposed(kernel, stride, dilation, padding, groups):
    """The transposed relation with the same weight index is conv_transpose3d, not flipped."""
    coords, feats, block = dense_pair(groups)
    weight = clouds.random_values(len(oracle.taps_of(kernel)), *block, seed=3)
    args = (kernel, stride, dilation, padding)
    sites = oracle.fine_sites(coords, *args)
    pairs = oracle.transpose_pairs(oracle.pairs_of(sites, coords, *args))
    dense = nnf.conv_transpose3d(
        oracle.scatter_dense(coords, feats, SHAPE, BATCH),
        oracle.dense_transposed_weight(weight, kernel, groups),
        stride=stride,
        dilation=dilation,
        groups=groups,
    )
    shift = np.array([0, *oracle.triple(padding)])
    expected = oracle.gather_dense(dense, np.array(sites) + shift)
    check(oracle.conv(feats, weight, pairs, len(sites), groups=groups), expected)
    assert int((dense.abs() > 1e-12).any(dim=1).sum()) <= len(sites)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (3, 1, 1)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_submanifold_padding_is_that_of_torch(kernel, dilation):
    """``same_padding`` in front is what torch's padding="same" does, even kernels included."""
    coords, feats, block = dense_pair(1)
    weight = clouds.random_values(len(oracle.taps_of(kernel)), *block, seed=3)
    pad = oracle.same_padding(kernel, dilation)
    pairs = oracle.pairs_of(coords, coords, kernel, 1, dilation, pad)
    total = [d * (k - 1) for k, d in zip(oracle.triple(kernel), (dilation,) * 3, strict=True)]
    ends = [v for t, p in reversed(list(zip(total, pad, strict=True))) for v in (p, t - p)]
    grid = nnf.pad(oracle.scatter_dense(coords, feats, SHAPE, BATCH), ends)
    dense = nnf.conv3d(grid, oracle.dense_weight(weight, kernel), dilation=dilation)
    assert tuple(dense.shape[2:]) == SHAPE
    check(
        oracle.conv(feats, weight, pairs, len(coords)),
        oracle.gather_dense(dense, coords),
    )


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pool(kernel, stride, padding):
    """Max pool over active sites is max_pool3d of a grid filled with minus infinity."""
    coords, feats, _ = dense_pair(1)
    args = (kernel, stride, 1, padding)
    sites = oracle.coarse_sites(coords, *args, spatial_shape=SHAPE)
    pairs = oracle.pairs_of(coords, sites, *args)
    leaf = feats.clone().requires_grad_()
    empty = torch.full((BATCH, feats.shape[1], *SHAPE), -torch.inf, dtype=feats.dtype)
    b, x, y, z = coords.long().unbind(1)
    grid = empty.permute(0, 2, 3, 4, 1).index_put((b, x, y, z), leaf).permute(0, 4, 1, 2, 3)
    expected = oracle.gather_dense(nnf.max_pool3d(grid, kernel, stride, padding), sites)
    check(oracle.pool(feats, pairs, len(sites), "max"), expected)
    grad = clouds.random_values(*expected.shape, seed=5)
    (wanted,) = torch.autograd.grad((expected * grad).sum(), leaf)
    check(oracle.pool_grad(feats, pairs, grad, "max"), wanted)


@pytest.mark.parametrize("mode", ["sum", "avg"])
def test_sum_and_average_pool(mode):
    """Sum pool is avg_pool3d times the volume; average divides by the active count."""
    coords, feats, _ = dense_pair(1)
    sites = oracle.coarse_sites(coords, 3, 2, 1, 1, spatial_shape=SHAPE)
    pairs = oracle.pairs_of(coords, sites, 3, 2, 1, 1)
    leaf = feats.clone().requires_grad_()
    total = 27 * nnf.avg_pool3d(oracle.scatter_dense(coords, leaf, SHAPE, BATCH), 3, 2, 1)
    ones = oracle.scatter_dense(coords, torch.ones_like(feats), SHAPE, BATCH)
    count = 27 * nnf.avg_pool3d(ones, 3, 2, 1)
    dense = total if mode == "sum" else total / count.clamp(min=1)
    expected = oracle.gather_dense(dense, sites)
    check(oracle.pool(feats, pairs, len(sites), mode), expected)
    grad = clouds.random_values(*expected.shape, seed=5)
    (wanted,) = torch.autograd.grad((expected * grad).sum(), leaf)
    check(oracle.pool_grad(feats, pairs, grad, mode), wanted)


def test_rules_of_coarse_sites():
    """k3 s2: the full rule gives up to eight sites a voxel, the cell rule exactly one."""
    one = [(0, 5, 5, 5)]
    assert len(oracle.coarse_sites(one, 3, 2, 1, 1)) == 8
    assert oracle.coarse_sites(one, 3, 2, 1, 1, rule="cell") == [(0, 2, 2, 2)]
    below = [(0, -1, -1, -1)]
    assert oracle.coarse_sites(below, 2, 2) == [(0, -1, -1, -1)]
    cloud = clouds.signed_coords(60, seed=7)
    assert oracle.coarse_sites(cloud, 2, 2) == oracle.coarse_sites(cloud, 2, 2, rule="cell")


def test_trilinear_is_grid_sample():
    """Interpolation weights on a full grid equal torch's grid_sample with aligned corners."""
    shape = (4, 5, 6)
    coords = clouds.solid_coords(shape)
    feats = clouds.random_values(len(coords), 3, seed=8)
    rng = np.random.default_rng(9)
    cells = rng.uniform(0, np.array(shape) - 1.001, (50, 3))
    grid = oracle.scatter_dense(coords, feats, shape, 1)
    unit = 2 * cells / (np.array(shape) - 1) - 1
    query = torch.from_numpy(unit[:, ::-1].copy()).reshape(1, 1, 1, -1, 3)
    expected = nnf.grid_sample(grid, query, align_corners=True).reshape(3, -1).T
    for anchor, shift in (("corner", 0.0), ("center", 0.5)):
        points = np.column_stack([np.zeros(50), (cells + shift) * 0.2 + 1.0])
        matrix = oracle.trilinear(coords, points, 0.2, origin=(1, 1, 1), anchor=anchor)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        clouds.assert_close(matrix @ feats.numpy(), expected, tolerance=1e-10)


def test_trilinear_with_missing_voxels():
    """Weights of absent voxels are dropped; renormalising divides by what is left."""
    coords = np.array([[0, 0, 0, 0]])
    point = np.array([[0, 0.25, 0.5, 0.0], [0, 9.0, 9.0, 9.0]])
    plain = oracle.trilinear(coords, point, 1.0, renormalize=False)
    assert plain[:, 0].tolist() == [0.375, 0.0]
    assert oracle.trilinear(coords, point, 1.0)[:, 0].tolist() == [1.0, 0.0]


def test_voxelize():
    """Means, firsts and membership of a hand-made cloud with negative cells and two samples."""
    points = np.array([[0, 0.1, 0.1, 0.1], [0, 0.4, 0.3, 0.2], [0, -0.1, 0, 0], [1, 0.1, 0.1, 0.1]])
    feats = np.array([[1.0], [3.0], [5.0], [7.0]])
    voxels = oracle.voxelize(points, feats, 0.5)
    assert {site: rows for site, (_, rows) in voxels.items()} == {
        (0, 0, 0, 0): [0, 1],
        (0, -1, 0, 0): [2],
        (1, 0, 0, 0): [3],
    }
    assert voxels[0, 0, 0, 0][0].tolist() == [2.0]
    for reduce, value in (("sum", 4.0), ("max", 3.0), ("first", 1.0)):
        assert oracle.voxelize(points, feats, 0.5, reduce=reduce)[0, 0, 0, 0][0] == value


def test_quantize_precision():
    """0.3 / 0.1 is 3 in float32 and just below it in float64: the dtype is part of the answer."""
    xyz = np.array([[0.3, 0.3, 0.3]])
    assert oracle.quantize(xyz, 0.1, dtype=np.float32).tolist() == [[3, 3, 3]]
    assert oracle.quantize(xyz, 0.1, dtype=np.float64).tolist() == [[2, 2, 2]]
