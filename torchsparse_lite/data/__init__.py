# SPDX-License-Identifier: MIT
"""Scans and where they come from."""
