# SPDX-License-Identifier: MIT
"""Sampling and neighbour search in clouds of points.

Clouds are ``xyz`` (N, 3) float32 or float64 with ``order`` (N,) int64, the rows cloud after cloud,
and ``ptr`` (num_clouds + 1,) int64, as :func:`~torchsparse_lite.ops.segments` gives them. "Lower"
and "first" rows are meant in that order. None of the results is differentiable. They are the same
bits on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import define_op
from torchsparse_lite.ops.scratch import scratch_on

__all__ = ["ball_query", "furthest_points", "nearest_points"]

Segments = tuple[Tensor, Tensor]


def _furthest_points_native(
    xyz: Tensor, order: Tensor, ptr: Tensor, sample_ptr: Tensor, num_samples: int
) -> Tensor:
    samples = order.new_empty(num_samples)
    C.furthest_points(
        xyz.contiguous(),
        order.contiguous(),
        ptr.contiguous(),
        sample_ptr.contiguous(),
        samples,
        scratch_on(xyz),
        torch.get_num_threads(),
    )
    return samples


_furthest_points = define_op(
    "furthest_points(Tensor xyz, Tensor order, Tensor ptr, Tensor sample_ptr, "
    "SymInt num_samples) -> Tensor",
    cpu=_furthest_points_native,
    cuda=_furthest_points_native if has_cuda() else None,
    fake=lambda xyz, order, ptr, sample_ptr, num_samples: order.new_empty(num_samples),
)


def furthest_points(
    xyz: Tensor, segments: Segments, sample_ptr: Tensor, *, num_samples: int | None = None
) -> Tensor:
    """The first point of each cloud, then again and again the one furthest from all chosen.

    Args:
        xyz: (N, 3) float32 or float64.
        segments: order and ptr of the clouds.
        sample_ptr: (num_clouds + 1,) int64, where the samples of each cloud begin.
        num_samples: of all clouds; read from ``sample_ptr`` if None, which waits for the device.

    Returns:
        (num_samples,) int64 rows, cloud after cloud, each row at most once; of equal distances
        the lower row comes first.

    Raises:
        ValueError: more samples than points in a cloud; rows that do not exist.

    Time: points times samples of each cloud; threads work on different clouds.
    """
    count = int(sample_ptr[-1]) if num_samples is None else num_samples
    result: Tensor = _furthest_points(xyz, *segments, sample_ptr, count)
    return result


def _ball_query_native(
    xyz: Tensor,
    order: Tensor,
    ptr: Tensor,
    queries: Tensor,
    query_cloud: Tensor,
    radius: float,
    max_neighbors: int,
) -> Tensor:
    index = order.new_empty((queries.shape[0], max_neighbors))
    C.ball_query(
        xyz.contiguous(),
        order.contiguous(),
        ptr.contiguous(),
        queries.contiguous(),
        query_cloud.contiguous(),
        radius,
        index,
        scratch_on(xyz),
        torch.get_num_threads(),
    )
    return index


_ball_query = define_op(
    "ball_query(Tensor xyz, Tensor order, Tensor ptr, Tensor queries, Tensor query_cloud, "
    "float radius, int max_neighbors) -> Tensor",
    cpu=_ball_query_native,
    cuda=_ball_query_native if has_cuda() else None,
    fake=lambda xyz, order, ptr, queries, query_cloud, radius, max_neighbors: order.new_empty(
        (queries.shape[0], max_neighbors)
    ),
)


def ball_query(
    xyz: Tensor,
    segments: Segments,
    queries: Tensor,
    query_cloud: Tensor,
    *,
    radius: float,
    max_neighbors: int,
) -> Tensor:
    """The first points of a cloud that are nearer than ``radius`` to each query.

    Args:
        xyz: (N, 3) float32 or float64.
        segments: order and ptr of the clouds.
        queries: (M, 3), dtype of ``xyz``.
        query_cloud: (M,) int64, the cloud in which each of them looks.
        radius: in the unit of ``xyz``.
        max_neighbors: columns of the result.

    Returns:
        (M, max_neighbors) int64 rows in order; columns left over repeat the first, or are -1 where
        there is none.

    Raises:
        ValueError: rows or clouds that do not exist.

    Time: at most queries times points of each cloud.
    """
    result: Tensor = _ball_query(xyz, *segments, queries, query_cloud, radius, max_neighbors)
    return result


def _nearest_points_native(
    xyz: Tensor, order: Tensor, ptr: Tensor, queries: Tensor, query_cloud: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    index, distance = _nearest_points_fake(xyz, order, ptr, queries, query_cloud, k)
    C.nearest_points(
        xyz.contiguous(),
        order.contiguous(),
        ptr.contiguous(),
        queries.contiguous(),
        query_cloud.contiguous(),
        index,
        distance,
        scratch_on(xyz),
        torch.get_num_threads(),
    )
    return index, distance


def _nearest_points_fake(
    xyz: Tensor, order: Tensor, ptr: Tensor, queries: Tensor, query_cloud: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return order.new_empty(shape), xyz.new_empty(shape)


_nearest_points = define_op(
    "nearest_points(Tensor xyz, Tensor order, Tensor ptr, Tensor queries, Tensor query_cloud, "
    "int k) -> (Tensor, Tensor)",
    cpu=_nearest_points_native,
    cuda=_nearest_points_native if has_cuda() else None,
    fake=_nearest_points_fake,
)


def nearest_points(
    xyz: Tensor, segments: Segments, queries: Tensor, query_cloud: Tensor, *, k: int
) -> tuple[Tensor, Tensor]:
    """The ``k`` points of a cloud that are nearest to each query.

    Args:
        xyz: (N, 3) float32 or float64.
        segments: order and ptr of the clouds.
        queries: (M, 3), dtype of ``xyz``.
        query_cloud: (M,) int64, the cloud in which each of them looks.
        k: at least 1.

    Returns:
        (M, k) int64 rows, nearest first, of equal distances the lower row; and (M, k) squared
        distances, dtype of ``xyz``. Where a cloud has fewer points: -1 and infinity.

    Raises:
        ValueError: rows or clouds that do not exist.

    Time: queries times points of each cloud.
    """
    result: tuple[Tensor, Tensor] = _nearest_points(xyz, *segments, queries, query_cloud, k)
    return result
