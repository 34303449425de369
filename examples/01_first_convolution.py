# SPDX-License-Identifier: MIT
"""A first sparse convolution, checked against torch's dense one.

Run: python examples/01_first_convolution.py
"""

from __future__ import annotations

import torch

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn


def main() -> None:
    """Convolve twelve voxels, with and without stride, and take a gradient."""
    torch.manual_seed(0)

    # A sparse tensor is two arrays with one row per occupied cell: where it is and what it holds.
    # A coordinate is (batch, x, y, z); no two rows may be equal.
    cells = torch.randperm(6 * 6 * 6)[:12]
    batch = torch.zeros_like(cells)
    coords = torch.stack([batch, cells // 36, cells // 6 % 6, cells % 6], dim=1).int()
    feats = torch.randn(12, 4)

    # The shape is optional. We give it so that dense() below knows how large the grid is.
    x = tsl.SparseTensor(feats, coords, spatial_shape=(6, 6, 6), batch_size=1)
    print("input:      ", x)

    # With stride 1 the output sites are the input sites ("submanifold"). A dense convolution would
    # spread the twelve voxels a little further with every layer.
    conv = spnn.Conv3d(4, 8, kernel_size=3)
    y = conv(x)
    print("submanifold:", y)

    # Where a voxel is occupied, the result is that of the dense convolution. The weight is stored
    # as (taps, in, out), taps counted with z fastest, so reshape and permute give torch's layout.
    dense_weight = conv.weight.reshape(3, 3, 3, 4, 8).permute(4, 3, 0, 1, 2)
    dense = torch.nn.functional.conv3d(x.dense(), dense_weight, conv.bias, padding=1)
    b, i, j, k = coords.long().unbind(1)
    torch.testing.assert_close(y.feats, dense[b, :, i, j, k], rtol=1e-4, atol=1e-5)
    print("dense torch agrees at all", len(y), "sites")

    # Stride 2 makes a coarser level. Its coordinates are divided: cell 2 covers 4 and 5 of the
    # level below, and the tensor remembers its stride.
    down = spnn.Conv3d(8, 16, kernel_size=2, stride=2)
    z = down(y)
    print("strided:    ", z)

    # Gradients flow as in any torch module.
    z.feats.square().mean().backward()
    print("gradient of the first weight:", tuple(conv.weight.grad.shape))


if __name__ == "__main__":
    main()
