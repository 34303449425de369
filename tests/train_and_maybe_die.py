# SPDX-License-Identifier: MIT
"""``tsl``, but kill -9 by its own hand: ``train_and_maybe_die.py <step, -1 never> train ...``."""

from __future__ import annotations

import os
import signal
import sys

import torch

from torchsparse_lite import cli
from torchsparse_lite.train.module import Segmentation


def main() -> int:
    step = int(sys.argv.pop(1))
    torch.set_num_threads(1)
    whole = Segmentation.on_train_batch_start

    def on_train_batch_start(self, batch, batch_index):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, batch, batch_index)

    Segmentation.on_train_batch_start = on_train_batch_start
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
