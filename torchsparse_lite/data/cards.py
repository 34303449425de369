# SPDX-License-Identifier: MIT
"""Cards: what is known of a data set, read from ``datasets/<name>.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.scan import IGNORE, Array
from torchsparse_lite.errors import check_choice, needs_extra, refuse

__all__ = ["Card", "card_names", "load_card"]

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "datasets", _PACKAGE.parent / "datasets")  # in a wheel; in a source tree
_UNKNOWN = -1
Color = tuple[int, int, int]
LabelMap = Mapping[int, str | None]
PREDICTIONS = ("label", "uint8")


@dataclass(frozen=True)
class Card:
    """What is known of a data set. A class's train id is its place in ``classes``.

    Attributes:
        name: as in ``datasets/<name>.yaml``.
        title: the name that its authors gave it.
        classes: class names.
        colors: (red, green, blue) of each class, 0..255.
        raw_ids: the label id in files that stands for each class, for writing predictions.
        ignored_raw: the label id in files that stands for "no class".
        label_maps: by name of the map: label id in files to class name, None where ignored.
        raw_names: the authors' name of each label id in files.
        splits: by name of the split: whatever the layout lists (sequences, scenes, folders).
        layout: where files lie and what their rows hold; read by the loader.
        remission_max: value in the files that becomes remission 1.
        views: which pictures make sense: top, side, range.
        licence: terms of the data.
        source: how to obtain the data, and what to cite.
        units: of the numbers in the files.
        groups: train ids that belong together: things (which have instances) and the ground below
            them, or the parts of each ShapeNet category.
        predictions: how files of predictions are written: "label" (uint32, the label id of the
            class) or "uint8" (one byte, the train id plus one, 0 for none).
    """

    name: str
    title: str
    licence: str
    source: str
    units: str
    classes: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    raw_ids: tuple[int, ...] = ()
    ignored_raw: int = 0
    label_maps: Mapping[str, LabelMap] = field(default_factory=dict)
    raw_names: Mapping[int, str] = field(default_factory=dict)
    splits: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    remission_max: float = 1.0
    views: tuple[str, ...] = ("top", "range")
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    predictions: str = "label"

    @property
    def num_classes(self) -> int:
        """Number of train ids."""
        return len(self.classes)

    def to_train(
        self, raw_labels: Array, map: str = "official", *, file: str | Path = "given labels"
    ) -> npt.NDArray[np.int64]:
        """Train ids of label ids as they stand in files.

        Args:
            raw_labels: (N,) integers, without instance bits.
            map: name of the label map.
            file: named in errors.

        Returns:
            (N,) int64 in ``[0, num_classes)``, 255 where ignored.

        Raises:
            ValueError: no such map, or a label id that the map does not know.
        """
        check_choice(f"Card.to_train: label map of card {self.name}", map, self.label_maps)
        ids = self.label_maps[map]
        table = np.full(max(ids, default=0) + 2, _UNKNOWN, np.int64)
        for raw, name in ids.items():
            table[raw] = IGNORE if name is None else self.classes.index(name)
        rows = np.asarray(raw_labels).astype(np.int64)
        outside = (rows < 0) | (rows >= len(table))
        train = table[np.where(outside, len(table) - 1, rows)]
        if (train == _UNKNOWN).any():
            self._refuse_unknown(np.unique(rows[train == _UNKNOWN]), map, file)
        return train

    def _refuse_unknown(self, unknown: Array, map: str, file: str | Path) -> None:
        refuse(
            f"Card.to_train: label ids in {file}",
            f"known to the label map {map!r} of card {self.name}",
            ", ".join(str(raw) for raw in unknown[:8].tolist()),
            "Choose another label map or card, or add the ids to a copy of the card.",
        )

    def to_raw(self, train: Array) -> npt.NDArray[np.uint32]:
        """Label ids for files, one per class, from train ids (N,); ignored ones become 0.

        Raises:
            ValueError: a train id is neither a class nor 255.
        """
        table = np.full(max(IGNORE, self.num_classes) + 1, self.ignored_raw, np.uint32)
        table[: self.num_classes] = self.raw_ids
        return table[self.check_train(train)]

    def check_train(self, train: Array) -> npt.NDArray[np.int64]:
        """The train ids (N,) as int64.

        Raises:
            TypeError: they are no integers.
            ValueError: one is neither a class nor 255.
        """
        given, remedy = np.asarray(train), "Give the arg max over the classes of this card."
        if not np.issubdtype(given.dtype, np.integer):
            where = f"Card.check_train: train ids of card {self.name}"
            refuse(where, "integers", given.dtype, remedy, error=TypeError)
        rows = given.astype(np.int64)
        wrong = (rows != IGNORE) & ((rows < 0) | (rows >= self.num_classes))
        if wrong.any():
            refuse(
                f"Card.check_train: train ids of card {self.name}",
                f"in [0, {self.num_classes}) or {IGNORE}",
                int(rows[wrong][0]),
                remedy,
            )
        return rows

    def __repr__(self) -> str:
        return f"Card({self.name!r}, {self.num_classes} classes)"


def card_names() -> list[str]:
    """Names of the cards that come with the library."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_card(name: str | Path) -> Card:
    """Read a card.

    Args:
        name: of a card that comes with the library, or the path of a YAML file of your own.

    Raises:
        FileNotFoundError: no such card.
        RuntimeError: PyYAML is not installed.
        ValueError: the file is no card.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = _folder() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(card_names())
        remedy = f"Use one of {known}, or the path of your own .yaml file."
        refuse("load_card: name", "a card", f"{name}", remedy, error=FileNotFoundError)
    yaml = needs_extra("load_card", "yaml", "data")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as broken:
        refuse(f"load_card: {path}", "YAML", str(broken), "Mend the file.")
    return _card_of(path, content)


def _folder() -> Path:
    return next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


def _card_of(path: Path, content: Any) -> Card:
    where, remedy = f"load_card: {path}", "Compare with a card that comes with the library."
    if not isinstance(content, Mapping):
        refuse(where, "a mapping", type(content).__name__, remedy)
    values = dict(content)
    classes = values.pop("classes", [])
    try:
        card = Card(
            name=path.stem,
            classes=tuple(entry["name"] for entry in classes),
            colors=tuple(tuple(entry["color"]) for entry in classes),
            raw_ids=tuple(entry["raw"] for entry in classes),
            views=tuple(values.pop("views", ("top", "range"))),
            groups={key: tuple(ids) for key, ids in values.pop("groups", {}).items()},
            **values,
        )
    except (KeyError, TypeError) as wrong:
        refuse(where, "complete and without unknown keys", str(wrong), remedy)
    if len(set(card.classes)) != len(card.classes):
        refuse(where, "a list of different class names", list(card.classes), remedy)
    if card.predictions not in PREDICTIONS:
        rule = f"one of {', '.join(PREDICTIONS)} in predictions"
        refuse(where, rule, card.predictions, remedy)
    for map_name, ids in card.label_maps.items():
        strange = set(ids.values()) - {None, *card.classes}
        if strange:
            rule = f"classes of the card in label map {map_name!r}"
            refuse(where, rule, sorted(map(str, strange)), remedy)
    return card
