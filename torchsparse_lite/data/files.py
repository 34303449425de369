# SPDX-License-Identifier: MIT
"""Reading what most data sets share: rows of float32, and one label per row.

Every reader checks sizes and names the file and the remedy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.scan import Array
from torchsparse_lite.errors import refuse

__all__ = [
    "need_file",
    "need_folder",
    "read_json",
    "read_labels",
    "read_matrix",
    "read_rows",
    "remission_of",
]


def need_folder(where: str, path: str | Path, remedy: str) -> Path:
    """The folder, which must exist.

    Raises:
        FileNotFoundError: it does not.
    """
    folder = Path(path)
    if not folder.is_dir():
        actual = f"{folder}, which is " + ("a file" if folder.exists() else "not there")
        refuse(where, "an existing folder", actual, remedy, error=FileNotFoundError)
    return folder


def need_file(where: str, path: str | Path, remedy: str) -> Path:
    """The file, which must exist.

    Raises:
        FileNotFoundError: it does not.
    """
    file = Path(path)
    if not file.is_file():
        refuse(where, "an existing file", f"{file}", remedy, error=FileNotFoundError)
    return file


def read_rows(where: str, path: Path, columns: int) -> npt.NDArray[np.float32]:
    """Rows of little-endian float32.

    Args:
        where: who reads, for errors.
        path: file without a header.
        columns: numbers per row.

    Returns:
        (N, columns) float32, writable.

    Raises:
        FileNotFoundError: no such file.
        ValueError: its size is no multiple of a row.
    """
    need_file(f"{where}: scan", path, "Download it again, or leave the scan out with files=.")
    size, row = path.stat().st_size, 4 * columns
    if size % row:
        refuse(
            f"{where}: size of {path}",
            f"a multiple of {row} bytes ({columns} float32 per point)",
            f"{size} bytes",
            "The file is truncated or has another layout: copy it again, or use another card.",
        )
    return np.fromfile(path, "<f4").astype(np.float32, copy=False).reshape(-1, columns)


def read_labels(where: str, path: Path, count: int, dtype: str = "<u4") -> Array:
    """One integer per point.

    Args:
        where: who reads, for errors.
        path: file without a header.
        count: points of the scan.
        dtype: of the file.

    Returns:
        (count,) of ``dtype``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has another number of labels.
    """
    remedy = "Download the labels, or read the scans alone with has_labels=False."
    need_file(f"{where}: labels", path, remedy)
    size, width = path.stat().st_size, np.dtype(dtype).itemsize
    if size != count * width:
        refuse(
            f"{where}: labels in {path}",
            f"one per point ({count} of {width} bytes)",
            f"{size} bytes ({size / width:g} labels)",
            "Scan and labels are of different releases, or one is truncated: copy both again.",
        )
    return np.fromfile(path, dtype)


def read_json(where: str, path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not JSON.
    """
    need_file(f"{where}: table", path, "Unpack the data set's tables under its root.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as broken:
        remedy = "The file is damaged: copy it again."
        refuse(f"{where}: {path}", "JSON", str(broken), remedy)


def read_matrix(where: str, path: Path, columns: int) -> npt.NDArray[np.float64]:
    """Numbers of a text file, one row a line.

    Returns:
        (N, columns) float64.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line holds something else, or another count of numbers.
    """
    need_file(f"{where}: text", path, "Copy the data set again.")
    remedy = "Mend that line of the file, or copy it again."
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        return np.empty((0, columns))
    try:
        rows = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except ValueError as broken:
        refuse(f"{where}: {path}", f"{columns} numbers a line", str(broken), remedy)
    if rows.shape[1] != columns:
        refuse(f"{where}: {path}", f"{columns} numbers a line", rows.shape[1], remedy)
    return rows


def remission_of(where: str, path: Path, values: Array, maximum: float) -> npt.NDArray[np.float32]:
    """Remission 0..1 from what the sensor wrote.

    Args:
        where: who reads, for errors.
        path: named in errors.
        values: (N,) numbers from 0 to ``maximum``.
        maximum: what becomes 1.

    Raises:
        ValueError: a number is outside.
    """
    remission = np.asarray(values, np.float32) / np.float32(maximum)
    wrong = np.isfinite(remission) & ((remission < 0) | (remission > 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        refuse(
            f"{where}: remission in {path}",
            f"from 0 to {maximum:g}",
            f"{np.asarray(values)[row]} in row {row}",
            "Set remission_max in a copy of the card to what the sensor writes at most.",
        )
    return np.asarray(remission, np.float32)
