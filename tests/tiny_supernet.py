# SPDX-License-Identifier: MIT
"""A supernet that trains in milliseconds, and clouds for it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from two_sheets import TwoSheets, collate

from torchsparse_lite import nas
from torchsparse_lite.train.subnets import SupernetSegmentation

CLASSES = ["low", "high"]
SPACE = {"kind": "spvnas", "quantum": 4, "width": 0.125, "voxel_size": 0.2}
DEFAULTS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def loader(count):
    return torch.utils.data.DataLoader(TwoSheets(count, 120), 2, collate_fn=collate)


def module_of(space=SPACE, dropout=0.3, **options):
    torch.manual_seed(0)
    supernet = nas.Supernet(space, in_channels=4, num_classes=2, dropout=dropout)
    return SupernetSegmentation(supernet, CLASSES, **{"learning_rate": 0.02, **options})


def pretend(module, **trainer):
    """Put the module into a step of a training that is not there."""
    given = {"global_step": 0, "estimated_stepping_batches": 4, "current_epoch": 0}
    given = {**given, "global_rank": 0, "optimizers": [], "callbacks": []}
    module._trainer = SimpleNamespace(**{**given, "strategy": SingleDeviceStrategy(), **trainer})
    module.log = lambda *args, **options: None
    return module
