# SPDX-License-Identifier: MIT
"""Which version of the library this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("torchsparse_lite")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
