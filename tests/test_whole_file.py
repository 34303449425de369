# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from house_form import provoke

from torchsparse_lite import whole_file
from torchsparse_lite.whole_file import write_whole


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"one", b"two"):
        write_whole("here", path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def fail(number):
    def raise_it(*_, **__):
        raise OSError(number, os.strerror(number))

    return raise_it


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_what_cannot_be_written_leaves_the_file_before(tmp_path, monkeypatch, number):
    """Room helps a full disk alone; the kind of the error stays."""
    path = tmp_path / "file"
    write_whole("here", path, b"before")
    monkeypatch.setattr(whole_file, "_write", fail(number))
    kind = PermissionError if number == errno.EACCES else OSError
    remedy = "Make room for 0.0 MB" if number == errno.ENOSPC else "Choose another path"
    words = [f"here: {path}", os.strerror(number), remedy, "unchanged"]
    provoke(kind, words, lambda: write_whole("here", path, b"after"))
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_file, "_sync_folder", fail(errno.EINVAL))
    write_whole("here", tmp_path / "file", b"there")
    assert (tmp_path / "file").read_bytes() == b"there"


@pytest.mark.parametrize("path", [".", "/"])
def test_a_folder_is_no_file(path):
    words = [f"here: {path}", "the path of a file", "a folder"]
    provoke(IsADirectoryError, words, lambda: write_whole("here", Path(path), b"after"))
