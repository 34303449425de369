# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from torchsparse_lite.errors import refuse

__all__ = ["write_whole"]


def write_whole(
    function: str, path: Path, content: bytes | memoryview, *, sync: bool = True
) -> None:
    """Write beside the file, then put it in place in one step; an earlier file stays until then.

    Args:
        function: name of the caller, for the message.
        path: of the file; its folder is made if needed.
        content: all of it.
        sync: wait until it is on the disk, so that it also outlives a loss of power.

    Raises:
        OSError: it could not be written; nothing is left behind, and an earlier file is as it was.
    """
    if not path.name:  # "." or "/"
        remedy = "Choose another path."
        rule, actual = "the path of a file", "a folder"
        refuse(f"{function}: {path}", rule, actual, remedy, error=IsADirectoryError)
    # One name per file: what a killed process leaves is overwritten by the next.
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, content, sync=sync)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = f"Make room for {len(content) / 1e6:.1f} MB" if is_full else "Choose another path"
        remedy = f"{way_out}, then run again: files that were there are unchanged."
        cause = error.strerror or error
        refuse(f"{function}: {path}", "writable", cause, remedy, error=type(error))
    if sync:
        with suppress(OSError):  # some file systems cannot; the content is on the disk
            _sync_folder(path.parent)


def _write(path: Path, content: bytes | memoryview, *, sync: bool) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk too, where folders can be synchronized."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
