# SPDX-License-Identifier: MIT
"""A supernet trained by two processes that write down what they saw: ``... FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from tiny_supernet import DEFAULTS, loader, module_of


class Diary(Callback):
    """Weights before each step, the batch, and the gradients that the step was made with."""

    def __init__(self):
        self.steps, self.validated = [], {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        points = batch["points"]
        self.steps.append(
            {
                "weights": cloned(pl_module.supernet.state_dict()),
                "points": (points.feats, points.coords, points.batch_size),
                "labels": batch["labels"],
            }
        )

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = pl_module.supernet.named_parameters()
        self.steps[-1]["grads"] = cloned({n: p.grad for n, p in parameters if p.grad is not None})

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated = {
            "weights": cloned(pl_module.supernet.state_dict()),
            "scorer": cloned(pl_module.scorer.state_dict()),
        }


def cloned(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


if __name__ == "__main__":
    diary = Diary()
    trainer = pl.Trainer(
        **DEFAULTS,
        strategy="ddp_find_unused_parameters_true",
        devices=2,
        max_epochs=1,
        callbacks=[diary],
    )
    trainer.fit(module_of(phases="ofa"), loader(12), loader(4))
    seen = {"steps": diary.steps, "validated": diary.validated}
    torch.save(seen, Path(sys.argv[1]) / f"rank{trainer.global_rank}.pt")
