# SPDX-License-Identifier: MIT
"""PVCNN and PVCNN++: networks of points and full grids of voxels."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite import ops
from torchsparse_lite.channels import Joined
from torchsparse_lite.cloud_grid import CloudGrid
from torchsparse_lite.errors import check_choice, check_dtype, check_shape, refuse
from torchsparse_lite.models.pvcnn_shape import (
    PVCNN_PRESETS,
    Head,
    PVCNNPlusPlusShape,
    PVCNNShape,
    PVStage,
)
from torchsparse_lite.neighborhoods import group_points
from torchsparse_lite.nn.compose import shared_mlp
from torchsparse_lite.points import PointTensor, check_points

__all__ = ["PVCNN", "PVCNNPlusPlus", "pvcnn"]

_XYZ = 3
_SIZES = {"shapenet": (3, 50, 16), "s3dis": (6, 13, 0), "s3dis++": (6, 13, 0)}
"""Features of a point, classes and categories of the data set of each preset."""


class PVCNN(nn.Module):
    """Point-voxel network at one set of points: PVConvs, shared MLPs, and the whole cloud.

    The coordinates are put in front of the features, in the features' dtype.

    Args:
        in_channels: features of a point besides its coordinates: 3 (normals) on ShapeNet, 6 (colour
            and place in the room) on S3DIS.
        num_classes: scores of a point.
        shape: width and depth.
        num_categories: categories of objects, which the classifier is told: 16 on ShapeNet.

    Source: Liu et al., "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019.
    """

    def __init__(
        self, in_channels: int, num_classes: int, shape: PVCNNShape, *, num_categories: int = 0
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_categories = num_categories
        self.stages = nn.ModuleList()
        width = _XYZ + in_channels
        seen = [num_categories] if num_categories else []
        for stage in shape.stages:
            self.stages.append(_Stage(width, stage, shape))
            width = stage.channels
            seen += [stage.channels] * stage.depth
        self.cloud = shared_mlp(width, *shape.cloud)
        seen.append(shape.cloud[-1] if shape.cloud else width)
        self.classifier = _classifier(Joined(*seen), shape.head, num_classes)

    def forward(self, points: PointTensor, category: Tensor | None = None) -> Tensor:
        """Scores of every point.

        Args:
            points: (N, in_channels).
            category: (batch_size,) int64 category of each cloud, where the network knows
                categories.

        Returns:
            (N, num_classes).

        Raises:
            TypeError: ``points`` or ``category`` is of another type, or one of them is missing.
            ValueError: wrong shapes; an unknown category; coordinates that are not finite.
        """
        z = _with_coordinates("PVCNN", points, self.in_channels)
        parts = self._one_hot(points, category)
        for stage in self.stages:
            outputs = stage(z)
            parts += [output.feats for output in outputs]
            z = outputs[-1]
        parts.append(self._whole_cloud(z))
        scores: PointTensor = self.classifier(points.replace_feats(torch.cat(parts, dim=1)))
        return scores.feats

    def _one_hot(self, points: PointTensor, category: Tensor | None) -> list[Tensor]:
        if not self.num_categories:
            if category is not None:
                remedy = "Leave it out, or build the network with num_categories."
                refuse("PVCNN: category", "None", "a category", remedy, error=TypeError)
            return []
        remedy = f"Give each cloud's category, from 0 to {self.num_categories - 1}."
        if not isinstance(category, Tensor):
            kind = type(category).__name__
            refuse("PVCNN: category", "a Tensor", kind, remedy, error=TypeError)
        check_shape("PVCNN: category", category, (points.batch_size,), remedy)
        check_dtype("PVCNN: category", category, (torch.int64,), remedy)
        is_known = (category >= 0) & (category < self.num_categories)
        if not bool(is_known.all()):
            wrong = category[~is_known].tolist()
            refuse("PVCNN: category", f"from 0 to {self.num_categories - 1}", wrong, remedy)
        one_hot = nn.functional.one_hot(category[points.batch.long()], self.num_categories)
        return [one_hot.to(points.dtype)]

    def _whole_cloud(self, z: PointTensor) -> Tensor:
        """(N, channels): the maximum over each point's cloud, and what the MLP makes of it."""
        present, cloud = torch.unique(z.batch.long(), return_inverse=True)
        segments = ops.segments(cloud, len(present))
        largest, _ = ops.segment_reduce(z.feats, *segments, reduce="max")
        # One row per cloud that has points; where it lies does not matter.
        whole: PointTensor = self.cloud(PointTensor(largest, z.xyz.new_zeros(len(present), 3)))
        return group_points(whole.feats, cloud.unsqueeze(1)).squeeze(1)


class PVCNNPlusPlus(nn.Module):
    """Point-voxel network over fewer and fewer points and back: PointNet++ with PVConvs.

    The coordinates are put in front of the features, in the features' dtype.

    Args:
        in_channels: features of a point besides its coordinates: 6 (colour and place in the room)
            on S3DIS.
        num_classes: scores of a point.
        shape: width and depth.

    Source: Liu et al., "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019.
    """

    def __init__(self, in_channels: int, num_classes: int, shape: PVCNNPlusPlusShape) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.before, self.down = nn.ModuleList(), nn.ModuleList()
        width, skips = _XYZ + in_channels, [in_channels]
        for number, step in enumerate(shape.down):
            if number:
                skips.append(width)
            self.before.append(_Stage(width, step.before, shape))
            width = step.before.channels if step.before else width
            self.down.append(
                spnn.SetAbstraction(
                    width,
                    step.channels,
                    num_centers=step.num_centers,
                    radius=step.radius,
                    max_neighbors=step.max_neighbors,
                )
            )
            width = step.channels[-1]
        self.up, self.after = nn.ModuleList(), nn.ModuleList()
        for back in shape.up:
            self.up.append(spnn.FeaturePropagation(Joined(width, skips.pop()), back.channels))
            width = back.channels[-1]
            self.after.append(_Stage(width, back.after, shape))
            width = back.after.channels if back.after else width
        self.classifier = _classifier(width, shape.head, num_classes)

    def forward(self, points: PointTensor) -> Tensor:
        """Scores of every point.

        Args:
            points: (N, in_channels); every cloud has at least as many points as the first step
                keeps of it, or none.

        Returns:
            (N, num_classes).

        Raises:
            TypeError: ``points`` is no PointTensor.
            ValueError: wrong number of channels; a cloud with too few points; coordinates that are
                not finite.
        """
        z = _with_coordinates("PVCNNPlusPlus", points, self.in_channels)
        skips: list[PointTensor] = []
        for before, down in zip(self.before, self.down, strict=True):
            skips.append(z if skips else points)
            z = down(before(z)[-1])
        for up, after in zip(self.up, self.after, strict=True):
            z = after(up(z, skips.pop()))[-1]
        scores: PointTensor = self.classifier(z)
        return scores.feats


class _Stage(nn.Module):
    """The layers of a :class:`PVStage`, which share one grid; none at all for None."""

    def __init__(
        self, in_channels: int, stage: PVStage | None, shape: PVCNNShape | PVCNNPlusPlusShape
    ) -> None:
        super().__init__()
        self.resolution = stage.resolution if stage else None
        self.normalize = shape.normalize
        self.layers = nn.ModuleList()
        if stage is None:
            return
        for width in (in_channels, *(stage.channels,) * (stage.depth - 1)):
            self.layers.append(
                shared_mlp(width, stage.channels)
                if stage.resolution is None
                else spnn.PVConv(
                    width,
                    stage.channels,
                    resolution=stage.resolution,
                    normalize=shape.normalize,
                    with_se=shape.with_se,
                )
            )

    def forward(self, z: PointTensor) -> list[PointTensor]:
        """The output of every layer; without any, the input."""
        shared: tuple[CloudGrid, ...] = ()
        if self.resolution is not None:
            shared = (CloudGrid(z, self.resolution, normalize=self.normalize),)
        outputs = list(accumulate(self.layers, lambda y, layer: layer(y, *shared), initial=z))
        return outputs[1:] or outputs


def _with_coordinates(function: str, points: PointTensor, in_channels: int) -> PointTensor:
    check_points(f"{function}: points", points)
    wanted = (None, in_channels)
    check_shape(f"{function}: feats", points.feats, wanted, "Coordinates are put in front of them.")
    return points.replace_feats(torch.cat([points.xyz.to(points.dtype), points.feats], dim=1))


def _classifier(in_channels: int, head: Head, num_classes: int) -> spnn.Sequential:
    layers = spnn.Sequential()
    for channels, dropout in head:
        layers.extend(shared_mlp(in_channels, channels))
        if dropout:
            layers.append(spnn.Dropout(dropout))
        in_channels = channels
    layers.append(spnn.Linear(in_channels, num_classes))
    return layers


def pvcnn(
    preset: str = "s3dis",
    *,
    in_channels: int | None = None,
    num_classes: int | None = None,
    num_categories: int | None = None,
    width: float = 1.0,
    resolution: float = 1.0,
) -> PVCNN | PVCNNPlusPlus:
    """A network by name; sizes that are not given are those of its data set.

    Args:
        preset: one of :data:`PVCNN_PRESETS`: "shapenet", "s3dis" (PVCNN) or "s3dis++" (PVCNN++).
        in_channels: features of a point besides its coordinates; 3 on ShapeNet, 6 on S3DIS.
        num_classes: scores of a point; 50 on ShapeNet, 13 on S3DIS.
        num_categories: of objects; 16 on ShapeNet. PVCNN++ knows none.
        width: factor on all channels; published are 0.125, 0.25, 0.5 and 1.
        resolution: factor on the cells of all grids.
    """
    check_choice("pvcnn: preset", preset, PVCNN_PRESETS)
    given = (in_channels, num_classes, num_categories)
    features, classes, categories = (
        size if own is None else own for own, size in zip(given, _SIZES[preset], strict=True)
    )
    shape = PVCNN_PRESETS[preset].scaled(width, resolution)
    if isinstance(shape, PVCNNShape):
        return PVCNN(features, classes, shape, num_categories=categories)
    if categories:
        remedy = "Leave it out, or take a preset of PVCNN."
        refuse("pvcnn: num_categories", "0 for PVCNN++", categories, remedy)
    return PVCNNPlusPlus(features, classes, shape)
