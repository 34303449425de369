# SPDX-License-Identifier: MIT
"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from torchsparse_lite.errors import refuse

__all__ = ["WholeFileCheckpointIO", "load_weights"]


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames at the end: an earlier checkpoint outlives a full disk.

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
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except OSError as error:
            part.unlink(missing_ok=True)
            refuse(
                f"checkpoint: {target}",
                "written whole",
                error.strerror or error,
                "Make room; the checkpoint before it is kept. Then go on with --resume.",
                error=OSError,
            )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no checkpoint of this library.
    """
    where = f"checkpoint: {path}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        remedy = "Train first, or give the path of a checkpoint."
        refuse(where, "a file", "none", remedy, error=FileNotFoundError)
    except Exception as error:
        refuse(where, "a whole checkpoint", type(error).__name__, "Use an earlier one.")
    if not isinstance(content, dict) or "state_dict" not in content:
        refuse(where, "a checkpoint with a state_dict", type(content).__name__, "Use another file.")
    return content


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Take the weights of a checkpoint, all of them.

    Args:
        module: gets them.
        path: of the checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another network.
    """
    weights = _read(path)["state_dict"]
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        refuse(
            f"checkpoint: {path}",
            "of a network of the same shape",
            " ".join(str(error).split())[:400],
            "Give the config it was trained with.",
        )
