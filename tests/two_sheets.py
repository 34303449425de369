# SPDX-License-Identifier: MIT
"""Points on two sheets, one above the other; the class is the sheet."""

from __future__ import annotations

import torch

import torchsparse_lite as tsl


class TwoSheets(torch.utils.data.Dataset):
    """So many clouds of so many points, the same each time."""

    def __init__(self, count, points):
        self.count = count
        self.points = points

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        xyz = torch.rand(self.points, 3, generator=generator) * torch.tensor([4.0, 4.0, 0.1])
        labels = torch.randint(0, 2, (self.points,), generator=generator)
        xyz[:, 2] += labels
        remission = torch.rand(self.points, 1, generator=generator)
        return {"points": tsl.PointTensor(torch.cat([xyz, remission], 1), xyz), "labels": labels}


def collate(samples):
    batch = tsl.collate_fn(samples)
    return {**batch, "labels": torch.cat([sample["labels"] for sample in samples])}
