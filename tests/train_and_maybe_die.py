# SPDX-License-Identifier: MIT
"""Train a tiny network: ``train_and_maybe_die.py <folder> <step to die at, -1 never>``.

Goes on from the last checkpoint in the folder if there is one. The final weights go to
``<folder>/final.pt``. Dying is kill -9 by its own hand, in the middle of an epoch.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from torchsparse_lite import models
from torchsparse_lite.data import RotateZ, Scan, load_card
from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.train.module import Segmentation
from torchsparse_lite.train.scans import ScanData

EPOCHS = 3


class Sheets(ScanDataset):
    """Four scans of two sheets, made up in memory; the class is the sheet."""

    default_card = "semantickitti"

    def __init__(self):
        self.names = [f"{index:06d}" for index in range(4)]
        self.card = load_card(self.default_card)
        self.drop_invalid = False

    def read(self, name):
        rng = np.random.default_rng(int(name))
        labels = rng.integers(0, 2, 200)
        xyz = rng.random((200, 3), dtype=np.float32) * np.float32([4, 4, 0.1])
        xyz[:, 2] += labels.astype(np.float32)
        return Scan(xyz, rng.random(200, dtype=np.float32), labels, name=name)


class Die(pl.Callback):
    """Kill this process before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = models.UNetShape.of((8, 8, 8), (1, 1), stem_depth=1)
    module = Segmentation(models.SPVCNN(4, 2, shape, voxel_size=0.2), ["low", "high"])
    checkpoints = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_last=True)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[checkpoints, Die(step)],
    )
    last = folder / "last.ckpt"
    scans = ScanData([Sheets()], transforms=[RotateZ()], workers=0)
    trainer.fit(module, scans, ckpt_path=last if last.exists() else None, weights_only=True)
    torch.save(module.state_dict(), folder / "final.pt")


if __name__ == "__main__":
    main()
