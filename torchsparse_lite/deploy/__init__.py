# SPDX-License-Identifier: MIT
"""Networks made ready to be run again and again."""

from torchsparse_lite.deploy.capture import Captured, capture

__all__ = ["Captured", "capture"]
