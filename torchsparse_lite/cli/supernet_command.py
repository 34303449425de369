# SPDX-License-Identifier: MIT
"""What the steps of ``tsl search`` behind the training have in common."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

import numpy as np
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from torchsparse_lite.cli.training import TrainedCommand
from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.models.setting import DTYPES, Setting
from torchsparse_lite.points import PointTensor
from torchsparse_lite.train.module import Segmentation
from torchsparse_lite.train.subnets import SupernetSegmentation

__all__ = ["TABLE", "SupernetCommand"]

TABLE = "latency.json"


class SupernetCommand(TrainedCommand):
    """What is done with a trained supernet."""

    trains: ClassVar[type[Segmentation]] = SupernetSegmentation
    model: SupernetSegmentation

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        help_ = "batches of training scans that norms are recalibrated with"
        parser.add_argument("--calibration", type=int, default=8, help=help_)
        help_ = f"of networks that are timed: {', '.join(DTYPES)}; --trainer.accelerator says where"
        parser.add_argument("--dtype", default="float32", help=help_)

    @property
    def setting(self) -> Setting:
        """Where and how networks are timed: fused, where the trainer computes."""
        check_choice("search: --dtype", self.config["dtype"], DTYPES)
        return Setting(self.trainer.strategy.root_device, DTYPES[self.config["dtype"]])

    def load_trained(self) -> None:
        """The weights asked for; by default the last: the best are those of the largest subnet.

        The supernet then is where the trainer computes, as are the scans of this command.
        """
        self.load(self.config["checkpoint"] or self.folder / "checkpoints" / "last.ckpt")
        self.model.to(self.setting.device)

    def scan(self) -> PointTensor:
        """The points of the first validation scan."""
        return self.validation(1)[0][0]

    def validation(self, count: int) -> list[tuple[PointTensor, Tensor]]:
        """So many validation scans, evenly spread, each with its labels."""
        if not self.datamodule.val:
            remedy = "Give scans with labels: --data.val '[{split: val}]'."
            refuse("search: data.val", "at least one data set", "none", remedy)
        if count < 1:
            refuse("search: --scans", "at least 1", count, "Score networks on a scan, at least.")
        loader = self.datamodule.val_dataloader()
        samples, collate = loader.dataset, loader.collate_fn
        count = min(count, len(samples))
        rows = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
        batches = (collate([samples[row]]) for row in rows)
        device = self.setting.device
        return [(batch["points"].to(device), batch["labels"].to(device)) for batch in batches]

    def calibration(self) -> list[PointTensor]:
        """Training scans as they are, for the statistics of norms."""
        self.datamodule.transforms = self.datamodule.mix = ()
        batches = islice(self.datamodule.train_dataloader(), self.config["calibration"])
        return [batch["points"].to(self.setting.device) for batch in batches]
