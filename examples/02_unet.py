# SPDX-License-Identifier: MIT
"""A small sparse U-Net that learns to tell two shapes apart, voxel by voxel.

Run: python examples/02_unet.py
"""

from __future__ import annotations

import torch
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn


def block(
    in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1
) -> nn.Module:
    """Convolution, batch norm, ReLU. The norm has its own bias, so the convolution needs none."""
    return spnn.Sequential(
        spnn.Conv3d(in_channels, out_channels, kernel_size, stride, bias=False),
        spnn.BatchNorm(out_channels),
        spnn.ReLU(),
    )


class UNet(nn.Module):
    """Two levels down, two up, with a skip connection at each level."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """Make the layers; channels double on the way down."""
        super().__init__()
        self.stem = block(in_channels, 16)
        self.down1 = spnn.Sequential(block(16, 32, kernel_size=2, stride=2), block(32, 32))
        self.down2 = spnn.Sequential(block(32, 64, kernel_size=2, stride=2), block(64, 64))
        self.up1 = spnn.Conv3d(64, 32, kernel_size=2, stride=2, transposed=True)
        self.merge1 = block(64, 32)
        self.up2 = spnn.Conv3d(32, 16, kernel_size=2, stride=2, transposed=True)
        self.merge2 = block(32, 16)
        self.head = spnn.Linear(16, num_classes)

    def forward(self, x: tsl.SparseTensor) -> tsl.SparseTensor:
        """Return one score per class at the sites of ``x``, rows in the order of ``x``."""
        fine = self.stem(x)
        middle = self.down1(fine)
        coarse = self.down2(middle)
        # A transposed convolution must know which sites to fill. It finds those that the encoder
        # used in the coordinate manager, which travels with the tensors. The rows then agree with
        # the skip connection's, and cat only joins the features.
        up = self.merge1(tsl.cat([self.up1(coarse), middle]))
        up = self.merge2(tsl.cat([self.up2(up), fine]))
        return self.head(up)


def two_shapes(batch_size: int) -> tuple[tsl.SparseTensor, torch.Tensor]:
    """Make scenes with a sphere (class 0) and a cube (class 1), both hollow, somewhere in 32^3."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(32)] * 3, indexing="ij"), dim=-1).reshape(
        -1, 3
    )
    scenes, labels = [], []
    for _ in range(batch_size):
        centres = torch.randint(7, 14, (2, 3)) + torch.tensor([[0, 0, 0], [11, 0, 0]])
        sphere = ((grid - centres[0]).float().norm(dim=1) - 5).abs() < 0.6
        cube = (grid - centres[1]).abs().amax(dim=1) == 4
        cells = torch.cat([grid[sphere], grid[cube & ~sphere]])
        coords = torch.nn.functional.pad(cells, (1, 0)).int()
        scenes.append(tsl.SparseTensor(torch.ones(len(cells), 1), coords))
        labels.append((torch.arange(len(cells)) >= sphere.sum()).long())
    # Collation gives each scene its batch index. Rows keep their order, so labels just follow.
    return tsl.sparse_collate(scenes), torch.cat(labels)


def main() -> None:
    """Train for a few steps and print the accuracy on fresh scenes."""
    torch.manual_seed(0)
    model = UNet(in_channels=1, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(30):
        x, labels = two_shapes(batch_size=4)
        loss = nn.functional.cross_entropy(model(x).feats, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            print(f"step {step + 1:2d}  loss {loss.item():.3f}")

    # For inference, fuse() folds batch norm and ReLU into the convolutions. It returns a new model.
    fast = spnn.fuse(model.eval())
    x, labels = two_shapes(batch_size=4)
    with torch.no_grad():
        scores = model(x).feats
        torch.testing.assert_close(fast(x).feats, scores, rtol=1e-3, atol=1e-3)
    accuracy = (scores.argmax(dim=1) == labels).float().mean().item()
    print(f"accuracy on new scenes: {accuracy:.1%} of {len(x)} voxels")


if __name__ == "__main__":
    main()
