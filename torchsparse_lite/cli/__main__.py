# SPDX-License-Identifier: MIT
"""``python -m torchsparse_lite.cli`` is ``tsl``."""

import sys

from torchsparse_lite.cli import main

sys.exit(main())
