# SPDX-License-Identifier: MIT
"""Losses, metrics and the Lightning module of segmentation. Needs the extra ``train``."""
