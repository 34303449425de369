# SPDX-License-Identifier: MIT
"""One ``.bin`` scan and one ``.label`` file, as KITTI and many others write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.cards import Card
from torchsparse_lite.data.files import read_labels, read_rows, remission_of
from torchsparse_lite.data.scan import IGNORE, Array, Scan
from torchsparse_lite.whole_file import write_whole

__all__ = [
    "read_label_file",
    "read_prediction_file",
    "read_scan_file",
    "write_prediction_file",
]


def read_scan_file(
    path: str | Path,
    card: Card,
    label_file: str | Path | None = None,
    *,
    label_map: str = "official",
    name: str | None = None,
) -> Scan:
    """A scan from its file, and its labels from theirs.

    Args:
        path: rows of little-endian float32, columns as the card's layout says.
        card: layout, remission and label maps.
        label_file: as for :func:`read_label_file`; None for a scan without labels.
        label_map: of the card.
        name: of the scan; by default that of the file, without its suffix.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, counts differ, or a label id is unknown.
    """
    path = Path(path)
    rows = read_rows("read_scan_file", path, len(card.layout["columns"]))
    labels, instances = None, None
    if label_file is not None:
        labels, instances = read_label_file(label_file, card, len(rows), label_map=label_map)
    return Scan(
        xyz=np.ascontiguousarray(rows[:, :3]),
        remission=remission_of("read_scan_file", path, rows[:, 3], card.remission_max),
        labels=labels,
        instances=instances,
        name=path.stem if name is None else name,
    )


def read_label_file(
    path: str | Path, card: Card, count: int, *, label_map: str = "official"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Labels, or a prediction, of one scan.

    Args:
        path: little-endian uint32 per point: label id in the lower 16 bits, instance in the upper.
        card: label maps.
        count: points of the scan.
        label_map: of the card.

    Returns:
        (count,) int64 train ids and (count,) int32 instance ids.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another number of labels, or an unknown label id.
    """
    words: Array = read_labels("read_label_file", Path(path), count)
    labels = card.to_train(words & 0xFFFF, label_map, file=path)
    return labels, (words >> 16).astype(np.int32)


def write_prediction_file(path: str | Path, labels: npt.NDArray[np.int64], card: Card) -> Path:
    """Write a prediction as the benchmark of the data set reads it; the folder is made if needed.

    Args:
        path: of the file.
        labels: (N,) train ids, 255 for none.
        card: has the format, and the label id of each class.

    Returns:
        The path.

    Raises:
        TypeError: the train ids are no integers.
        ValueError: a train id is no class.
        OSError: the file could not be written; an earlier one is as it was.
    """
    path = Path(path)
    if card.predictions == "uint8":
        train = card.check_train(labels)
        content = np.where(train == IGNORE, 0, train + 1).astype("u1").tobytes()
    else:
        content = card.to_raw(labels).astype("<u4").tobytes()
    write_whole("write_prediction_file", path, content, sync=False)
    return path


def read_prediction_file(
    path: str | Path, card: Card, count: int, *, label_map: str = "official"
) -> npt.NDArray[np.int64]:
    """What :func:`write_prediction_file` wrote.

    Args:
        path: of the file.
        card: has the format, and label maps.
        count: points of the scan.
        label_map: of the card.

    Returns:
        (count,) int64 train ids, 255 for none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another number of labels, or an unknown one.
    """
    if card.predictions != "uint8":
        return read_label_file(path, card, count, label_map=label_map)[0]
    written: Array = read_labels("read_prediction_file", Path(path), count, "u1")
    train = written.astype(np.int64) - 1
    return card.check_train(np.where(train < 0, IGNORE, train))
