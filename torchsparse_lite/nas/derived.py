# SPDX-License-Identifier: MIT
"""Networks that a search has found, by their descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.spaces import search_space

__all__ = ["derived"]


def derived(space: dict[str, Any], arch: str, **options: Any) -> nn.Module:
    """The network of an architecture; what a config file names to train one.

    Args:
        space: its ``kind`` and options, as for :func:`~torchsparse_lite.nas.search_space`.
        arch: JSON that :meth:`Arch.to_json` made, or a file of it.
        **options: of the network, such as ``num_classes``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no architecture, or none of the space.
    """
    text = arch
    if not arch.lstrip().startswith("{"):
        path = Path(arch)
        if not path.is_file():
            remedy = "Give the file that the search wrote."
            refuse("derived: arch", "a file or JSON", arch, remedy, error=FileNotFoundError)
        text = path.read_text()
    return search_space(**space).build(Arch.from_json(text), **options)
