# SPDX-License-Identifier: MIT
"""Label files of predicted scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from torchsparse_lite.data.base import ScanDataset
from torchsparse_lite.train.module import Prediction
from torchsparse_lite.train.stages import StageTimes

__all__ = ["WritePredictions"]


class WritePredictions(Callback):
    """Writes what :meth:`Segmentation.predict_step` returns, scan by scan.

    Args:
        scans: that are predicted.
        folder: of the files; each data set knows where below it a prediction belongs. That of
            SemanticKITTI makes the folder a submission: zip it.

    Attributes:
        files: what was written by this process.
        times: of each scan.
    """

    def __init__(self, scans: ScanDataset, folder: str | Path) -> None:
        self.scans = scans
        self.folder = Path(folder)
        self.files: list[Path] = []
        self.times: list[StageTimes] = []

    def on_predict_batch_end(  # noqa: PLR0917
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the file of one scan."""
        prediction: Prediction = outputs
        labels = prediction.labels.cpu().numpy()
        (name,) = batch["name"]
        path = self.scans.write_prediction(self.folder, name, labels)
        self.files.append(path)
        self.times.append(prediction.times)
