# SPDX-License-Identifier: MIT
"""One suite per file; ``run(threads, device)`` returns its rows."""
