# SPDX-License-Identifier: MIT
"""Benchmarks: ``python -m benchmarks.run <suite>``."""
