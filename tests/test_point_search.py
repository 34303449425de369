# SPDX-License-Identifier: MIT
"""Sampling, ball query, nearest neighbours, grouping, interpolation: tables, oracle, promises."""

from __future__ import annotations

import pickle

import clouds
import numpy as np
import point_oracle
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchsparse_lite as tsl

DTYPES = [torch.float32, torch.float64]


def cloud_of(*xyz, batch=None, feats=None, batch_size=None, dtype=torch.float32):
    """Points on the x axis for numbers, at positions for triples."""
    rows = [(v, 0.0, 0.0) if isinstance(v, (int, float)) else v for v in xyz]
    coords = torch.tensor(rows, dtype=dtype).reshape(-1, 3)
    batch = torch.tensor(batch or [0] * len(rows), dtype=dtype).reshape(-1, 1)
    feats = torch.arange(len(rows), dtype=torch.float32).unsqueeze(1) if feats is None else feats
    return tsl.PointTensor(feats, torch.cat([batch, coords], dim=1), batch_size)


def lattice(count, *, extent=6, batch_size=3, seed=0, dtype=torch.float32, channels=4):
    """Points of a coarse lattice, so that distances are exact and often equal."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(-extent, extent + 1, (count, 3), generator=generator) / 4
    batch = torch.randint(0, batch_size, (count, 1), generator=generator)
    feats = clouds.random_values(count, channels, seed=seed, dtype=torch.float64)
    return tsl.PointTensor(feats, torch.cat([batch, xyz], dim=1).to(dtype), batch_size)


def parts(points):
    """Positions and clouds for the oracle."""
    return points.xyz.double().numpy(), points.batch.tolist()


# ---- furthest point sampling


def test_furthest_by_hand():
    """4 and -4 are equally far from 0: the lower row comes first."""
    points = cloud_of(0, 1, 4, -4, 2)
    assert tsl.furthest_point_sample(points, 5).tolist() == [0, 2, 3, 4, 1]
    assert tsl.furthest_point_sample(points, 1).tolist() == [0]
    two = cloud_of(5, 0, 6, 9, 1, batch=[1, 0, 1, 1, 0])
    assert tsl.furthest_point_sample(two, 2).tolist() == [1, 4, 0, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_furthest_is_the_oracles(dtype, seed):
    points = lattice(120, seed=seed, dtype=dtype)
    xyz, batch = parts(points)
    sizes = [batch.count(c) for c in range(3)]
    for number in (1, 7, min(sizes)):
        expected = point_oracle.furthest(xyz, batch, [number] * 3)
        assert tsl.furthest_point_sample(points, number).tolist() == expected


def test_a_share_of_each_cloud():
    points = cloud_of(*range(11), batch=[0] * 7 + [2] * 3 + [3])
    rows = tsl.furthest_point_sample(points, 0.5)
    assert points.batch[rows].tolist() == [0] * 4 + [2] * 2 + [3]  # 3.5 and 1.5 are rounded to even
    assert len(tsl.furthest_point_sample(points, 1.0)) == 11
    assert points.batch[tsl.furthest_point_sample(points, 0.01)].tolist() == [0, 2, 3]


def test_points_that_coincide_are_each_taken_once():
    points = cloud_of(*[2.0] * 6)
    assert tsl.furthest_point_sample(points, 6).tolist() == list(range(6))
    mixed = cloud_of(1, 1, 1, 5, 1)
    assert tsl.furthest_point_sample(mixed, 5).tolist() == [0, 3, 1, 2, 4]


# ---- ball query


def test_ball_by_hand():
    """The first rows, not the nearest; the border is outside; an empty ball has -1."""
    points = cloud_of(0, 3, 1, 2)
    centers = cloud_of(0, 1, 9)
    expected = [[0, 2, 0], [0, 2, 3], [-1, -1, -1]]
    assert tsl.ball_query(points, centers, radius=2.0, max_neighbors=3).tolist() == expected
    assert tsl.ball_query(points, centers, radius=2.5, max_neighbors=1).tolist() == [[0], [0], [-1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("radius", [0.25, 0.8, 10.0])
@pytest.mark.parametrize("count", [1, 5, 70])
def test_balls_are_the_oracles(dtype, radius, count):
    points = lattice(150, dtype=dtype)
    centers = lattice(40, seed=1, extent=8, dtype=dtype)
    expected = point_oracle.ball(*parts(points), *parts(centers), radius=radius, count=count)
    found = tsl.ball_query(points, centers, radius=radius, max_neighbors=count)
    assert found.tolist() == expected


# ---- nearest neighbours and interpolation


def test_nearest_by_hand():
    """Of 1 and -1, equally near to 0, the lower row comes first."""
    points = cloud_of(4, 1, -1, 0.5)
    index, distance = tsl.nearest_neighbors(points, cloud_of(0, 4), k=3)
    assert index.tolist() == [[3, 1, 2], [0, 1, 3]]
    assert distance.tolist() == [[0.25, 1.0, 1.0], [0.0, 9.0, 12.25]]
    index, distance = tsl.nearest_neighbors(cloud_of(7), cloud_of(5), k=3)
    assert index.tolist() == [[0, -1, -1]]
    assert distance.tolist() == [[4.0, float("inf"), float("inf")]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3, 60])
def test_nearest_are_the_oracles(dtype, k):
    points = lattice(150, dtype=dtype)
    queries = lattice(40, seed=1, extent=8, dtype=dtype)
    index, distance = tsl.nearest_neighbors(points, queries, k=k)
    expected_index, expected_distance = point_oracle.nearest(*parts(points), *parts(queries), k)
    assert index.tolist() == expected_index
    assert distance.tolist() == expected_distance


@pytest.mark.parametrize("k", [1, 3])
def test_interpolation_is_the_oracles(k):
    points, queries = lattice(150, dtype=torch.float64), lattice(40, seed=1, dtype=torch.float64)
    feats = points.feats.numpy()
    (xyz, batch), asked = parts(points), parts(queries)
    for eps in (1e-8, 0.1):
        found = tsl.interpolate_nearest(points, queries, k=k, eps=eps)
        expected = point_oracle.interpolated(xyz, batch, feats, *asked, k=k, eps=eps)
        clouds.assert_close(found, expected, tolerance=1e-12)


def test_interpolation_by_hand():
    """Weights 1, 1/4 and 1/9; at a point itself, its own features."""
    feats = torch.tensor([[1.0], [2.0], [3.0], [100.0]])
    points = cloud_of(1, -2, 3, 50, feats=feats)
    found = tsl.interpolate_nearest(points, cloud_of(0, 50))
    expected = (1 + 2 / 4 + 3 / 9) / (1 + 1 / 4 + 1 / 9)
    clouds.assert_close(found, [[expected], [100.0]], tolerance=1e-6)


def test_grouping_by_hand():
    feats = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    index = torch.tensor([[1, 0, 1], [-1, -1, -1]])
    expected = [[[3, 4], [1, 2], [3, 4]], [[0, 0]] * 3]
    assert tsl.group_points(feats, index).tolist() == expected
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert tsl.group_points(feats.to(dtype), index).dtype == dtype


def test_differentiable_in_the_features():
    points, queries = lattice(30, dtype=torch.float64), lattice(12, seed=1, dtype=torch.float64)
    index = tsl.ball_query(points, queries, radius=1.0, max_neighbors=4)
    assert bool((index < 0).any())
    assert bool((index >= 0).any())
    leaf = points.feats.clone().requires_grad_()
    for run in (
        lambda f: tsl.group_points(f, index),
        lambda f: tsl.interpolate_nearest(points.replace_feats(f), queries),
    ):
        assert gradcheck(run, leaf)
        assert gradgradcheck(run, leaf)


def test_coordinates_that_ask_for_gradients_are_data():
    """Positions choose rows and weights, no gradient reaches them, and nothing warns."""
    points = lattice(30)
    coords = points.coords.clone().requires_grad_()
    moving = tsl.PointTensor(points.feats.clone().requires_grad_(), coords, points.batch_size)
    rows = tsl.furthest_point_sample(moving, 2)
    index = tsl.ball_query(moving, points, radius=1.0, max_neighbors=2)
    loss = (
        tsl.interpolate_nearest(moving, points).sum() + tsl.group_points(moving.feats, index).sum()
    )
    loss.backward()
    assert not rows.requires_grad
    assert coords.grad is None


# ---- promises


def everything(points, centers):
    """All results, rows of -1 and distances included, with a gradient."""
    feats = points.feats.detach().clone().requires_grad_()
    index = tsl.ball_query(points, centers, radius=0.8, max_neighbors=8)
    nearest, distance = tsl.nearest_neighbors(points, centers, k=3)
    grouped = tsl.group_points(feats, index)
    mean = tsl.interpolate_nearest(points.replace_feats(feats), centers)
    weights = torch.linspace(-1, 1, mean.numel(), dtype=mean.dtype).view_as(mean)
    loss = (mean * weights).sum() + (grouped * weights.unsqueeze(1)).sum()
    (grad,) = torch.autograd.grad(loss, feats)
    return index, nearest, distance, grouped, mean, grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_for_any_thread_count(threads, dtype):
    coords = clouds.random_points(6000, batch_size=3, extent=2.0, dtype=dtype)
    points = tsl.PointTensor(clouds.random_values(6000, 5, dtype=dtype), coords)
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        rows = tsl.furthest_point_sample(points, 300)
        centers = tsl.PointTensor(points.feats[rows], points.coords[rows], 3)
        results.append((rows, *everything(points, centers), *everything(centers, points)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_batch_mates_do_not_matter():
    """Each cloud by itself gives the same rows and the same bits."""
    points = lattice(200, dtype=torch.float64)
    rows = tsl.furthest_point_sample(points, 9)
    centers = tsl.PointTensor(points.feats[rows], points.coords[rows], 3)
    index, nearest, distance, grouped, mean, _ = everything(points, centers)
    for cloud in range(3):
        mine = (points.batch == cloud).nonzero().flatten()
        alone = tsl.PointTensor(points.feats[mine], points.xyz[mine])
        picked = tsl.furthest_point_sample(alone, 9)
        here = centers.batch == cloud
        assert torch.equal(mine[picked], rows[here])
        own = everything(alone, tsl.PointTensor(alone.feats[picked], alone.coords[picked]))
        for found, whole in zip(own[:2], (index, nearest), strict=True):
            assert torch.equal(torch.where(found < 0, found, mine[found]), whole[here])
        for found, whole in zip(own[2:5], (distance, grouped, mean), strict=True):
            assert torch.equal(found, whole[here])


def test_rows_in_any_order():
    """Interleaved clouds change nothing; a permuted cloud has the same neighbours."""
    coords = clouds.random_points(300, batch_size=3, seed=4, dtype=torch.float64)
    points = tsl.PointTensor(clouds.random_values(300, 2), coords)
    order = torch.argsort(points.batch, stable=True)
    sorted_points = tsl.PointTensor(points.feats[order], coords[order])
    rows = tsl.furthest_point_sample(points, 20)
    assert torch.equal(order[tsl.furthest_point_sample(sorted_points, 20)], rows)
    shuffle = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    shuffled = tsl.PointTensor(points.feats[shuffle], coords[shuffle])
    for other, back in ((sorted_points, order), (shuffled, shuffle)):
        index, distance = tsl.nearest_neighbors(other, points, k=4)
        expected = tsl.nearest_neighbors(points, points, k=4)
        assert torch.equal(back[index], expected[0])
        assert torch.equal(distance, expected[1])
        clouds.assert_close(
            tsl.interpolate_nearest(other, points),
            tsl.interpolate_nearest(points, points),
            tolerance=0,
        )
        found = tsl.ball_query(other, points, radius=2.0, max_neighbors=300)
        inside = tsl.ball_query(points, points, radius=2.0, max_neighbors=300)
        for a, b in zip(back[found].tolist(), inside.tolist(), strict=True):
            assert set(a) == set(b)


def test_clouds_without_points_and_with_one():
    points = cloud_of(1, 5, batch=[1, 3], batch_size=5)
    queries = cloud_of(0, 0, 5.5, batch=[0, 1, 3], batch_size=5)
    assert tsl.furthest_point_sample(points, 1).tolist() == [0, 1]
    assert tsl.ball_query(points, queries, radius=2, max_neighbors=2).tolist() == [
        [-1, -1],
        [0, 0],
        [1, 1],
    ]
    assert tsl.nearest_neighbors(points, queries, k=1)[0].tolist() == [[-1], [0], [1]]
    assert tsl.interpolate_nearest(points, queries).tolist() == [[0.0], [0.0], [1.0]]
    nothing = cloud_of(batch_size=5)
    assert tsl.furthest_point_sample(nothing, 16).shape == (0,)
    assert tsl.furthest_point_sample(nothing, 0.5).shape == (0,)
    assert tsl.ball_query(points, nothing, radius=1.0, max_neighbors=4).shape == (0, 4)
    assert tsl.ball_query(nothing, queries, radius=1.0, max_neighbors=4).unique().tolist() == [-1]
    assert tsl.interpolate_nearest(nothing, queries).tolist() == [[0.0]] * 3
    assert tsl.interpolate_nearest(points, nothing).shape == (0, 1)
    assert tsl.group_points(points.feats, torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3, 1)


def test_coordinates_of_two_types_meet_in_the_wider():
    points, queries = lattice(40, dtype=torch.float32), lattice(9, seed=1, dtype=torch.float64)
    _, distance = tsl.nearest_neighbors(points, queries, k=2)
    assert distance.dtype == torch.float64


def test_numbers_of_numpy_are_numbers():
    points = cloud_of(0, 1, 2)
    assert len(tsl.furthest_point_sample(points, np.int64(2))) == 2
    assert len(tsl.furthest_point_sample(points, np.float32(1.0))) == 3
    assert tsl.ball_query(
        points, points, radius=np.float32(1), max_neighbors=np.int32(2)
    ).shape == (
        3,
        2,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_weights_are_summed_in_float32(dtype):
    """Products of two halves can be more than a half can hold."""
    values = 300 * clouds.random_values(6, 40, dtype=dtype)
    feats, grad = values.split([4, 2])
    index = torch.tensor([[0, 3, -1], [2, 2, 1]])
    weight = torch.ones(2, 3, requires_grad=True)
    tsl.ops.interpolate(feats, index, weight).backward(grad)
    rows = feats.double()[index.clamp_min(0)] * (index >= 0).unsqueeze(2)
    wanted = (rows * grad.double().unsqueeze(1)).sum(2)
    clouds.assert_close(weight.grad, wanted, tolerance=1e-6)
    assert not weight.grad[0, 2]


# ---- what is found out of coordinates is kept


def test_clouds_are_told_apart_once_for_all_features_at_the_same_points():
    points = lattice(30)
    known = points.batch_ptr
    for other in (
        points,
        points.replace_feats(points.feats[:, :1]),
        points.double(),
        points.to("cpu", torch.float16),
        points.detach().clone(),
    ):
        assert other.batch_ptr is known
    moved = tsl.PointTensor.of_checked(points.feats, points.coords.clone(), points.batch_size)
    assert moved.batch_ptr is not known
    assert moved.batch_ptr[0].equal(known[0])


def test_coordinates_that_change_in_place_are_looked_at_anew():
    points = lattice(30)
    other = points.replace_feats(points.feats)
    known = points.batch_ptr
    tsl.furthest_point_sample(points, 2)
    points.coords[:, 0] = points.batch_size - 1 - points.coords[:, 0]
    for changed in (points, other):
        assert not changed.batch_ptr[0].equal(known[0])
        assert changed.batch[changed.batch_ptr[0]].diff().ge(0).all()
    points.coords[3, 2] = torch.nan
    for changed in (points, other, pickle.loads(pickle.dumps(points))):
        with pytest.raises(ValueError, match="row 3"):
            tsl.furthest_point_sample(changed, 2)
    points.coords[3, 2] = 0
    assert len(tsl.furthest_point_sample(points, 2)) == 2 * points.batch_size


def test_a_copy_by_pickle_does_not_trust_the_count_of_changes():
    points = lattice(30)
    known = points.batch_ptr
    copy = pickle.loads(pickle.dumps(points))
    assert copy.batch_ptr is not known
    assert copy.batch_ptr[0].equal(known[0])


def test_what_was_found_in_inference_mode_is_not_taken_for_training():
    points = lattice(30)
    points.feats.requires_grad_()
    with torch.inference_mode():
        assert points.batch_ptr is points.batch_ptr
    tsl.ops.segment_reduce(points.feats, *points.batch_ptr, reduce="mean")[0].sum().backward()
    assert points.feats.grad is not None


def test_a_set_abstraction_looks_at_its_points_once(monkeypatch):
    points = lattice(30).float()
    layer = tsl.nn.SetAbstraction(
        points.num_channels, (3,), num_centers=0.5, radius=1.0, max_neighbors=2
    )
    seen, isfinite, segments = [], torch.Tensor.isfinite, tsl.ops.segments
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda x: seen.append(len(x)) or isfinite(x))
    monkeypatch.setattr(
        tsl.ops, "segments", lambda *a, **how: seen.append("segments") or segments(*a, **how)
    )
    centers = layer(points)
    assert seen == [len(points), "segments", len(centers)]
