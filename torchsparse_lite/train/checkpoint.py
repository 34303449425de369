# SPDX-License-Identifier: MIT
"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from torchsparse_lite.compat.files import from_torch
from torchsparse_lite.whole_file import write_whole

__all__ = ["WholeFileCheckpointIO"]


class WholeFileCheckpointIO(TorchCheckpointIO):
    """An earlier checkpoint of the name outlives a full disk.

    Lightning's own goes through the system's temporary folder, and copies from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what Lightning gathered.
            path: of the file; folders are made.
            storage_options: none are known.

        Raises:
            OSError: it could not be written; a file that was there is as before.
        """
        content = io.BytesIO()  # torch's own writer hides what went wrong
        torch.save(checkpoint, content)
        write_whole("save_checkpoint", Path(path), content.getbuffer())

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = None,
        weights_only: bool | None = None,  # noqa: FBT001
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU; nothing in it is executed.

        Args:
            path: of the file.
            map_location: not asked; Lightning moves what it needs.
            weights_only: not asked; it always is.

        Raises:
            ValueError: the file is damaged.
        """
        file = Path(path)
        content: dict[str, Any] = from_torch(file, file.read_bytes())
        return content
