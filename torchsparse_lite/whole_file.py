# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes | memoryview, *, sync: bool = True) -> None:
    """Write beside the file, then put it in place in one step; an earlier file stays until then.

    Args:
        path: of the file, in a folder that exists.
        content: all of it.
        sync: wait until it is on the disk, so that it also outlives a loss of power.

    Raises:
        OSError: it could not be written; nothing is left behind, and an earlier file is as it was.
    """
    # One name per file: what a killed process leaves is overwritten by the next.
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk too, where folders can be synchronized."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
