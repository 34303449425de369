# SPDX-License-Identifier: MIT
"""``tsl``, but killed by its own hand: ``train_and_maybe_die.py STEP SIGNAL train ...``.

STEP is counted by the optimizer, and -1 is never.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

from torchsparse_lite import cli
from torchsparse_lite.train.module import Segmentation


def main() -> int:
    step, by = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    torch.set_num_threads(1)
    # A test run that was started in the background hands its ignored Ctrl-C down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    whole = Segmentation.on_train_batch_start

    def on_train_batch_start(self, batch, batch_index):
        if self.global_step == step:
            os.kill(os.getpid(), by)
        whole(self, batch, batch_index)

    Segmentation.on_train_batch_start = on_train_batch_start
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
