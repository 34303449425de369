# SPDX-License-Identifier: MIT
"""SPVCNN: MinkUNet with a branch of points beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.errors import check_type, refuse
from torchsparse_lite.models.minkunet import PRESETS, MinkUNet, UNetShape
from torchsparse_lite.nn.compose import shared_mlp
from torchsparse_lite.point_grid import PointGrid
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor

__all__ = ["SPVCNN", "OnPoints", "as_spvcnn", "spvcnn"]


class SPVCNN(nn.Module):
    """Sparse point-voxel network: a :class:`MinkUNet` whose voxels meet the points at some stages.

    There a point takes up the voxels around it and adds a layer of its own, and the voxels go on
    with the mean of their points. Points are the raw ones, at their own positions; with one point
    at the corner of every voxel it computes what the released SPVNAS networks do.

    Args:
        in_channels: features of a point.
        num_classes: scores of a point.
        shape: width and depth of the U-Net.
        voxel_size: edge length in metres.
        meetings: stages (0 is the stem) after which points and voxels meet, ascending up to the
            last one, which gives the scores. By default after the stem, the encoder and, counted
            from the last, every second stage of the decoder.
        point_widths: by stage, channels of a layer between in the point branch that leads to the
            meeting there; where there is none, the branch is a single layer.
        dropout: probability at meetings behind the encoder.
        normalize: put a batch norm in front, which brings metres and remissions to one scale. The
            released networks do without, and take long to see the remission.

    Source: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution",
    ECCV 2020.
    """

    def __init__(
        self,
        in_channels: int = 4,
        num_classes: int = 19,
        shape: UNetShape = PRESETS["42"],
        *,
        voxel_size: float | Sequence[float] = 0.05,
        meetings: Sequence[int] | None = None,
        point_widths: Mapping[int, int] | None = None,
        dropout: float = 0.3,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        half, last = len(shape.down), len(shape.down) + len(shape.up)
        self.voxel_size = voxel_size
        if meetings is None:
            meetings = sorted({0, half, *range(last, half, -2)})
        self.meetings = tuple(meetings)
        stages = range(last + 1)
        if self.meetings != tuple(n for n in stages if n in self.meetings or n == last):
            refuse(
                "SPVCNN: meetings",
                f"stages from 0 to {last} in ascending order, the last one included",
                self.meetings,
                "Scores come from the points after the last stage.",
            )
        self.input: nn.Module = spnn.BatchNorm(in_channels) if normalize else nn.Identity()
        self.unet = MinkUNet(in_channels, 0, shape)
        between = dict(point_widths or {})
        if not between.keys() <= set(self.meetings[1:]):
            rule = f"among the meetings with a branch before them, {self.meetings[1:]}"
            refuse("SPVCNN: point_widths", rule, sorted(between), "Give them a meeting first.")
        self.point_widths = between
        self.points = nn.ModuleDict()
        for a, b in pairwise(self.meetings):
            widths = shape.channels[a], shape.channels[b]
            self.points[f"{a}_{b}"] = _point_branch(*widths, between.get(b))
        self.dropout = spnn.Dropout(dropout)
        self.classifier = spnn.Linear(shape.channels[last], num_classes)

    def forward(self, points: PointTensor, grid: PointGrid | None = None) -> Tensor:
        """Scores of every point.

        Args:
            points: (N, in_channels), coordinates in metres.
            grid: of these points, where one is known already: networks that share it share its
                cells and kernel maps.

        Returns:
            (N, num_classes).
        """
        if grid is None:
            grid = PointGrid(points, self.voxel_size, function="SPVCNN")
        check_type("SPVCNN: grid", grid, PointGrid, "Make one of these points, or leave it out.")
        grid.check_fits("SPVCNN", points, self.voxel_size)
        points = self.input(points)
        half = len(self.unet.down)
        z = points

        def meet(stage: int, x: SparseTensor) -> SparseTensor:
            nonlocal z
            if stage not in self.meetings:
                return x
            feats = grid.gather(x)
            if stage != self.meetings[0]:
                before = self.meetings[self.meetings.index(stage) - 1]
                feats = feats + self.points[f"{before}_{stage}"](z).feats
            z = z.replace_feats(feats)
            if stage == self.meetings[-1]:
                return x
            x = grid.scatter(z.feats, x)
            return x if stage < half else self.dropout(x)

        self.unet.features(grid.scatter(points.feats, grid.sites), meet)
        scores: Tensor = self.classifier(z).feats
        return scores


def as_spvcnn(function: str, network: nn.Module) -> SPVCNN:
    """The network; TypeError, in the name of the function, unless it is an SPVCNN."""
    if not isinstance(network, SPVCNN):
        kind, remedy = type(network).__name__, "Build one of models; others are not known there."
        refuse(f"{function}: network", "an SPVCNN", kind, remedy, error=TypeError)
    return network


def _point_branch(in_channels: int, out_channels: int, between: int | None) -> spnn.Sequential:
    if between is None:
        return shared_mlp(in_channels, out_channels)
    layers = shared_mlp(in_channels, between), shared_mlp(between, out_channels)
    return spnn.Sequential(*layers)


class OnPoints(nn.Module):
    """Runs a network of voxels on points: every point gets the scores of its voxel.

    Args:
        network: takes and gives a SparseTensor at the same voxels.
        voxel_size: edge length in metres.
    """

    def __init__(self, network: nn.Module, voxel_size: float | Sequence[float] = 0.05) -> None:
        super().__init__()
        self.network = network
        self.voxel_size = voxel_size

    def forward(self, points: PointTensor) -> Tensor:
        """(N, num_classes) scores of every point."""
        voxels, rows, _ = PointGrid(points, self.voxel_size).voxelize()
        scores: SparseTensor = self.network(voxels)
        return scores.feats.index_select(0, rows)


def spvcnn(
    preset: str = "42",
    *,
    in_channels: int = 4,
    num_classes: int = 19,
    width: float = 1.0,
    voxel_size: float | Sequence[float] = 0.05,
    dropout: float = 0.3,
    normalize: bool = False,
) -> SPVCNN:
    """An :class:`SPVCNN` by the name of its U-Net, see :meth:`UNetShape.preset`."""
    shape = UNetShape.preset(preset, width)
    return SPVCNN(
        in_channels,
        num_classes,
        shape,
        voxel_size=voxel_size,
        dropout=dropout,
        normalize=normalize,
    )
