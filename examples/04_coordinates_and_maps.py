# SPDX-License-Identifier: MIT
"""Under the layers: hash table, output sites, kernel maps, set operations.

Run: python examples/04_coordinates_and_maps.py
"""

from __future__ import annotations

from itertools import pairwise

import torch

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn


def convolve_by_hand(
    feats: torch.Tensor, weight: torch.Tensor, kernel_map: tsl.KernelMap
) -> torch.Tensor:
    """Apply a kernel map with plain torch: this is all that a sparse convolution computes."""
    out = feats.new_zeros(kernel_map.num_out, weight.shape[2])
    starts = kernel_map.tap_ptr.tolist()
    for tap, (begin, end) in enumerate(pairwise(starts)):
        rows_in = kernel_map.in_index[begin:end].long()
        rows_out = kernel_map.out_index[begin:end].long()
        out.index_add_(0, rows_out, feats[rows_in] @ weight[tap])
    return out


def main() -> None:
    """Look up coordinates, compare the two stride rules, and use a kernel map directly."""
    torch.manual_seed(0)
    cells = torch.unique(torch.randint(-8, 8, (200, 3)), dim=0)
    coords = torch.nn.functional.pad(cells, (1, 0)).int()
    x = tsl.SparseTensor(torch.randn(len(coords), 4), coords)

    # The hash table answers "which row has this coordinate?", with -1 for none.
    table = tsl.HashTable(coords)
    right = coords + torch.tensor([0, 1, 0, 0], dtype=torch.int32)
    found = table.lookup(right)
    print(f"{(found >= 0).sum()} of {len(x)} voxels have a neighbour at x + 1")

    # A level is a set of coordinates. The manager makes coarser levels and kernel maps, and keeps
    # them, so a second layer with the same geometry searches nothing.
    manager, level = x.manager, x.level
    half = tsl.ConvGeometry(3, stride=2, padding=1)
    full = manager.strided(level, half, rule="full")
    cell = manager.strided(level, half, rule="cell")
    print(f"stride 2 from {len(level)} sites: full {len(full)}, cell {len(cell)}")

    # A kernel map lists which input row meets which output row under which kernel tap.
    kernel_map = manager.kernel_map(level, full, half)
    conv = spnn.Conv3d(4, 8, kernel_size=3, stride=2, padding=1, bias=False)
    by_hand = convolve_by_hand(x.feats, conv.weight, kernel_map)
    torch.testing.assert_close(by_hand, conv(x).feats, rtol=1e-4, atol=1e-5)
    print(f"{kernel_map.num_pairs} pairs under {half.kernel_volume} taps; plain torch agrees")

    # Generative layers make new sites: all that the kernel reaches.
    grow = spnn.Conv3d(8, 4, kernel_size=2, stride=2, transposed=True, generative=True)
    grown = grow(conv(x))
    print(f"generative: {len(full)} sites grow to {len(grown)}")

    # Pruning keeps some rows. Adding tensors with different sites takes the union of the sites.
    kept = grown[grown.feats.norm(dim=1) > grown.feats.norm(dim=1).median()]
    both = kept + x
    print(f"pruned to {len(kept)}; together with the {len(x)} input sites: {len(both)}")


if __name__ == "__main__":
    main()
