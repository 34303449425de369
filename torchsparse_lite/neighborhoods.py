# SPDX-License-Identifier: MIT
"""Points that stand for a cloud, points around a place, and what they hold.

Clouds of a batch may have any sizes, their rows any order. A search finds row numbers, and these
are data: gradients reach the features that are read, never the coordinates.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import check_dtype, check_integer, check_shape, check_type, refuse
from torchsparse_lite.points import PointTensor, check_points

__all__ = [
    "ball_query",
    "furthest_point_sample",
    "group_points",
    "interpolate_nearest",
    "nearest_neighbors",
]


def furthest_point_sample(points: PointTensor, num_samples: int | float) -> Tensor:
    """Choose points that cover each cloud evenly.

    The first point of a cloud comes first, then again and again the one that is furthest from all
    chosen ones; of equally far ones the lower row. No point is chosen twice.

    Args:
        points: float coordinates.
        num_samples: per cloud: an integer, or a share in (0, 1] of its points, rounded to the
            nearest number and at least one. A cloud without points gives none.

    Returns:
        (M,) int64 rows of ``points``, cloud after cloud, in the order in which they were chosen.

    Raises:
        TypeError: ``points`` or ``num_samples`` is of another type.
        ValueError: a cloud has fewer points than asked for; coordinates that are not finite.

    Time: points times samples of each cloud.

    Source: Qi et al., "PointNet++", NeurIPS 2017, section 3.2.
    """
    check_points("furthest_point_sample: points", points)
    order, ptr = points.batch_ptr
    wanted = _wanted_samples(num_samples, ptr.diff())
    sample_ptr = torch.cat([ptr[:1], wanted.cumsum(0)])
    return ops.furthest_points(points.xyz.detach(), (order, ptr), sample_ptr)


def _wanted_samples(num_samples: int | float, sizes: Tensor) -> Tensor:
    """(batch_size,) int64 samples of each cloud."""
    where = "furthest_point_sample: num_samples"
    rule = "an integer from 1 on, or a share above 0 and up to 1"
    remedy = "Give the samples of each cloud: 1024, or 0.25 for a quarter of its points."
    if isinstance(num_samples, bool) or not isinstance(num_samples, Real):
        refuse(where, rule, repr(num_samples), remedy, error=TypeError)
    if not isinstance(num_samples, Integral):
        if not 0 < num_samples <= 1:
            refuse(where, rule, num_samples, remedy)
        shares = (sizes * float(num_samples)).round().long()
        return shares.clamp_min(1) * (sizes > 0)
    if num_samples < 1:
        refuse(where, rule, num_samples, remedy)
    is_small = (sizes > 0) & (sizes < num_samples)
    if bool(is_small.any()):
        cloud = int(is_small.int().argmax())
        refuse(
            where,
            f"at most the points of every cloud ({int(sizes[cloud])} in cloud {cloud})",
            num_samples,
            "Ask for fewer, give a share such as 0.25, or leave small clouds out.",
        )
    return int(num_samples) * (sizes > 0)


def ball_query(
    points: PointTensor, centers: PointTensor, *, radius: float, max_neighbors: int
) -> Tensor:
    """The first points of the same cloud that are nearer than ``radius`` to each center.

    Args:
        points: where neighbours are looked for.
        centers: (M, ...) any positions; the same number of clouds.
        radius: in the unit of the coordinates; a point at just this distance is outside.
        max_neighbors: columns of the result.

    Returns:
        (M, max_neighbors) int64 rows of ``points``: those with the lowest rows, not the nearest, as
        in PointNet++. Columns left over repeat the first, so that a maximum over them stays the
        same; a center with nothing around it has -1 in all.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a radius or a number that is not positive; batches of different sizes;
            coordinates that are not finite.

    Time: at most centers times points of each cloud.

    Source: Qi et al., "PointNet++", NeurIPS 2017, section 3.2.
    """
    _check_size("ball_query: radius", radius, "Give a length in the unit of the coordinates.")
    _check_count("ball_query: max_neighbors", max_neighbors)
    xyz, queries = _searched("ball_query", "centers", points, centers)
    return ops.ball_query(
        xyz,
        points.batch_ptr,
        queries,
        centers.batch.long(),
        radius=float(radius),
        max_neighbors=int(max_neighbors),
    )


def nearest_neighbors(
    points: PointTensor, queries: PointTensor, *, k: int = 3
) -> tuple[Tensor, Tensor]:
    """The ``k`` points of the same cloud that are nearest to each query.

    Args:
        points: where neighbours are looked for.
        queries: (M, ...) any positions; the same number of clouds.
        k: columns of the results.

    Returns:
        (M, k) int64 rows of ``points``, nearest first, of equally near ones the lower row; and
        (M, k) squared distances. Where the cloud has fewer points: -1 and infinity.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``k`` is not positive; batches of different sizes; coordinates that are not
            finite.

    Time: queries times points of each cloud.
    """
    _check_count("nearest_neighbors: k", k)
    xyz, wanted = _searched("nearest_neighbors", "queries", points, queries)
    return ops.nearest_points(xyz, points.batch_ptr, wanted, queries.batch.long(), k=int(k))


def group_points(feats: Tensor, index: Tensor) -> Tensor:
    """Gather the features of neighbours.

    Args:
        feats: (N, C) floating.
        index: (M, k) int64 rows of ``feats``; -1 gives zeros.

    Returns:
        (M, k, C), dtype of ``feats``; differentiable in it, and the gradients of a row that is read
        several times are added in a fixed order.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an index is neither a row nor -1; wrong shapes.
    """
    check_type("group_points: feats", feats, Tensor, "Pass the features, points.feats.")
    check_shape("group_points: feats", feats, (None, None), "Give one row of features per point.")
    remedy = "Pass what ball_query or nearest_neighbors returned."
    check_type("group_points: index", index, Tensor, remedy)
    check_shape("group_points: index", index, (None, None), remedy)
    check_dtype("group_points: index", index, (torch.int64,), remedy)
    rows = index.reshape(-1, 1)
    gathered = ops.interpolate(feats, rows, feats.new_ones(rows.shape))
    return gathered.view(*index.shape, feats.shape[1])


def interpolate_nearest(
    points: PointTensor, queries: PointTensor, *, k: int = 3, eps: float = 1e-8
) -> Tensor:
    """Read features at other positions: the mean of the ``k`` nearest points.

    Their weights are ``1 / (d^2 + eps)``, ``d`` the distance, divided by their sum.

    Args:
        points: features at positions.
        queries: (M, ...) where they are wanted; the same number of clouds.
        k: neighbours; a cloud with fewer points uses all of them.
        eps: what keeps the weight of a point at the query itself finite, in squared units of the
            coordinates.

    Returns:
        (M, C), dtype of the features; zero in a cloud without points. Differentiable in the
        features.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``k`` or ``eps`` is not positive; batches of different sizes; coordinates that
            are not finite.

    Source: Qi et al., "PointNet++", NeurIPS 2017, section 3.4.
    """
    _check_size("interpolate_nearest: eps", eps, "Leave it out for 1e-8.")
    _check_count("interpolate_nearest: k", k)
    xyz, wanted = _searched("interpolate_nearest", "queries", points, queries)
    index, squared = ops.nearest_points(
        xyz, points.batch_ptr, wanted, queries.batch.long(), k=int(k)
    )
    weight = torch.reciprocal(squared + eps)  # 0 for neighbours that are missing, at infinity
    weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return ops.interpolate(points.feats, index, weight)


def _check_size(where: str, value: float, remedy: str) -> None:
    check_type(where, value, Real, remedy)
    if not 0 < value < math.inf:
        refuse(where, "positive and finite", value, remedy)


def _check_count(where: str, count: int) -> None:
    remedy = "Give the number of neighbours."
    check_integer(where, count, remedy)
    if count < 1:
        refuse(where, "at least 1", count, remedy)


def _searched(
    function: str, name: str, points: PointTensor, queries: PointTensor
) -> tuple[Tensor, Tensor]:
    """Positions of both in one dtype, (N, 3) and (M, 3)."""
    check_points(f"{function}: points", points)
    check_points(f"{function}: {name}", queries)
    if points.batch_size != queries.batch_size:
        refuse(
            f"{function}: {name}",
            f"of as many clouds as points ({points.batch_size})",
            queries.batch_size,
            "Give both the same batch_size; clouds may be empty.",
        )
    dtype = torch.promote_types(points.coords.dtype, queries.coords.dtype)
    return points.xyz.detach().to(dtype), queries.xyz.detach().to(dtype)
