# SPDX-License-Identifier: MIT
"""One suite per file; ``run(threads)`` returns its rows."""
