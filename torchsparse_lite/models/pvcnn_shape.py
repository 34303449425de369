# SPDX-License-Identifier: MIT
"""Width and depth of PVCNN and PVCNN++ as data, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchsparse_lite.errors import refuse

__all__ = [
    "PVCNN_PRESETS",
    "Abstraction",
    "Head",
    "PVCNNPlusPlusShape",
    "PVCNNShape",
    "PVStage",
    "Propagation",
]

Head = tuple[tuple[int, float], ...]
"""Layers of a classifier: width, and the dropout behind it."""


@dataclass(frozen=True)
class PVStage:
    """Layers of one width at all points.

    Attributes:
        channels: of its outputs.
        depth: layers.
        resolution: cells per axis of the grid of its PVConvs; None for plain shared MLPs.
    """

    channels: int
    depth: int = 1
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            refuse("PVStage: depth", "at least 1", self.depth, "Leave the stage out instead.")

    def scaled(self, width: float, resolution: float) -> PVStage:
        """Channels times ``width`` and cells times ``resolution``, rounded down."""
        r = None if self.resolution is None else _scaled("resolution", self.resolution, resolution)
        return replace(self, channels=_scaled("width", self.channels, width), resolution=r)


@dataclass(frozen=True)
class Abstraction:
    """One step of :class:`~torchsparse_lite.models.PVCNNPlusPlus` to fewer points.

    Attributes:
        num_centers: points that stay of each cloud, an integer or a share.
        radius: of the ball around each, in the unit of the coordinates.
        max_neighbors: points that are looked at in the ball.
        channels: of the layers of its shared MLP.
        before: layers at all points, ahead of the step, or None.
    """

    num_centers: int | float
    radius: float
    max_neighbors: int
    channels: tuple[int, ...]
    before: PVStage | None = None

    def scaled(self, width: float, resolution: float) -> Abstraction:
        """As :meth:`PVStage.scaled`."""
        before = None if self.before is None else self.before.scaled(width, resolution)
        return replace(self, channels=_scaled_all(self.channels, width), before=before)


@dataclass(frozen=True)
class Propagation:
    """One step of :class:`~torchsparse_lite.models.PVCNNPlusPlus` back to more points.

    Attributes:
        channels: of the layers of its shared MLP.
        after: layers at the points behind the step, or None.
    """

    channels: tuple[int, ...]
    after: PVStage | None = None

    def scaled(self, width: float, resolution: float) -> Propagation:
        """As :meth:`PVStage.scaled`."""
        after = None if self.after is None else self.after.scaled(width, resolution)
        return replace(self, channels=_scaled_all(self.channels, width), after=after)


@dataclass(frozen=True)
class PVCNNShape:
    """Width and depth of a :class:`~torchsparse_lite.models.PVCNN`.

    Attributes:
        stages: one after the other; the classifier sees the outputs of all their layers.
        cloud: widths of the MLP on the maximum over the cloud; empty for the maximum itself.
        head: width of each layer of the classifier, and the dropout behind it.
        with_se: squeeze-and-excitation in every PVConv.
        normalize: scale each cloud to its grid, see :class:`~torchsparse_lite.CloudGrid`.
    """

    stages: tuple[PVStage, ...]
    head: Head
    cloud: tuple[int, ...] = ()
    with_se: bool = False
    normalize: bool = True

    def scaled(self, width: float, resolution: float = 1.0) -> PVCNNShape:
        """All channels times ``width`` and all cells times ``resolution``, rounded down."""
        return replace(
            self,
            stages=tuple(stage.scaled(width, resolution) for stage in self.stages),
            cloud=_scaled_all(self.cloud, width),
            head=_scaled_head(self.head, width),
        )


@dataclass(frozen=True)
class PVCNNPlusPlusShape:
    """Width and depth of a :class:`~torchsparse_lite.models.PVCNNPlusPlus`.

    Attributes:
        down: steps to fewer points.
        up: steps back; as many.
        head: width of each layer of the classifier, and the dropout behind it.
        with_se: squeeze-and-excitation in every PVConv.
        normalize: scale each cloud to its grid, see :class:`~torchsparse_lite.CloudGrid`.
    """

    down: tuple[Abstraction, ...]
    up: tuple[Propagation, ...]
    head: Head
    with_se: bool = True
    normalize: bool = True

    def __post_init__(self) -> None:
        if len(self.up) != len(self.down) or not self.down:
            refuse(
                "PVCNNPlusPlusShape: up",
                f"as many steps as down ({len(self.down)}), and at least one",
                len(self.up),
                "Every step to fewer points needs its step back.",
            )

    def scaled(self, width: float, resolution: float = 1.0) -> PVCNNPlusPlusShape:
        """All channels times ``width`` and all cells times ``resolution``, rounded down."""
        return replace(
            self,
            down=tuple(step.scaled(width, resolution) for step in self.down),
            up=tuple(step.scaled(width, resolution) for step in self.up),
            head=_scaled_head(self.head, width),
        )


def _scaled(name: str, size: int, factor: float) -> int:
    result = int(size * factor)
    if result < 1:
        rule = f"large enough that nothing of {size} vanishes"
        refuse(f"scaled: {name}", rule, factor, "Choose a larger factor.")
    return result


def _scaled_all(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(_scaled("width", c, width) for c in channels)


def _scaled_head(head: Head, width: float) -> Head:
    return tuple((_scaled("width", c, width), dropout) for c, dropout in head)


PVCNN_PRESETS: dict[str, PVCNNShape | PVCNNPlusPlusShape] = {
    "shapenet": PVCNNShape(
        (PVStage(64, 1, 32), PVStage(128, 2, 16), PVStage(512), PVStage(2048)),
        head=((256, 0.2), (256, 0.2), (128, 0.0)),
        with_se=True,
        normalize=False,
    ),
    "s3dis": PVCNNShape(
        (PVStage(64, 1, 32), PVStage(64, 2, 16), PVStage(128, 1, 16), PVStage(1024)),
        head=((512, 0.3), (256, 0.3)),
        cloud=(256, 128),
    ),
    "s3dis++": PVCNNPlusPlusShape(
        (
            Abstraction(1024, 0.1, 32, (32, 64), PVStage(32, 2, 32)),
            Abstraction(256, 0.2, 32, (64, 128), PVStage(64, 3, 16)),
            Abstraction(64, 0.4, 32, (128, 256), PVStage(128, 3, 8)),
            Abstraction(16, 0.8, 32, (256, 256, 512)),
        ),
        (
            Propagation((256, 256), PVStage(256, 1, 8)),
            Propagation((256, 256), PVStage(256, 1, 8)),
            Propagation((256, 128), PVStage(128, 2, 16)),
            Propagation((128, 128, 64), PVStage(64, 1, 32)),
        ),
        head=((128, 0.5),),
    ),
}
"""The published networks: parts of ShapeNet objects; S3DIS rooms with PVCNN and with PVCNN++."""
