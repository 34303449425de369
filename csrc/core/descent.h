// SPDX-License-Identifier: MIT
// 3x3x3 neighbours without a search: a child's neighbours are among the children of its parent's
// neighbours.
//
// The children of one cell and the ring around them are a 4x4x4 block, one bit each in a 64-bit
// word (bit 16 x + 4 y + z; the cell's own children are at 1..2). The word is the union of the
// shifted child masks of the parent's up to 27 neighbours. A child's own 3x3x3 window is that word
// shifted by the child's octant.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/neighbor_table.h"

namespace tsl {

constexpr int kDescentTaps = 27;

/// Bits 16 a + 4 b + c for a, b, c in 0..2.
constexpr uint64_t kWindow = 0x0000077707770777ULL;

/// Child mask (bit 4 x + 2 y + z) to block bits 16 x + 4 y + z.
TSL_HOST_DEVICE uint64_t block_from_children(uint32_t child_mask) {
  const uint64_t m = child_mask;
  const auto plane = [](uint64_t four) { return (four & 3u) | ((four & 12u) << 2); };
  return plane(m & 15u) | (plane(m >> 4) << 16);
}

/// Which part of the parent's neighbour `tap` (0..26, x slowest) lies in the block, and where.
struct BlockPart {
  uint64_t children;  // block bits of the neighbour's children that touch the block
  int shift;          // from the neighbour's own frame into the block; negative is to the right

  TSL_HOST_DEVICE uint64_t place(uint64_t bits) const {
    return shift >= 0 ? (bits & children) << shift : (bits & children) >> -shift;
  }
};

/// Block bits of all children of a cell, in its own frame.
constexpr uint64_t kChildren = 0x330033;

TSL_HOST_DEVICE BlockPart block_part(int tap) {
  const int d[3] = {tap / 9 - 1, tap / 3 % 3 - 1, tap % 3 - 1};
  const int scale[3] = {16, 4, 1};
  const uint64_t low[3] = {0x000033, 0x030003, 0x110011};  // children at 0 along each axis
  BlockPart part{kChildren, 0};
  for (int axis = 0; axis < 3; ++axis) {
    part.shift += scale[axis] * (2 * d[axis] + 1);
    if (d[axis] < 0) part.children &= ~low[axis];
    if (d[axis] > 0) part.children &= low[axis];
  }
  return part;
}

/// One cell of the block, seen from the parent.
struct BlockCell {
  int cell_tap;             // which neighbour of the parent holds it
  uint32_t octants_before;  // that neighbour's children that come before it
};

/// The cell that the child in `octant` sees through `tap`.
TSL_HOST_DEVICE BlockCell block_cell(int octant, int tap) {
  const int d[3] = {tap / 9 - 1, tap / 3 % 3 - 1, tap % 3 - 1};
  const int o[3] = {octant >> 2, octant >> 1 & 1, octant & 1};
  BlockCell cell{0, 0};
  int child = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int position = o[axis] + d[axis] + 2;  // 1..4; 2 and 3 are the parent's own children
    cell.cell_tap = 3 * cell.cell_tap + position / 2;
    child = 2 * child + position % 2;
  }
  cell.octants_before = (1u << child) - 1u;
  return cell;
}

/// How far to shift the block right so that the window of the child in `octant` starts at bit 0.
TSL_HOST_DEVICE int window_shift(int octant) {
  return 16 * (octant >> 2) + 4 * (octant >> 1 & 1) + (octant & 1);
}

/// Window bits 16 a + 4 b + c to tap bits 9 a + 3 b + c.
TSL_HOST_DEVICE uint32_t taps_from_window(uint64_t window) {
  const uint64_t rows = (window & 0x000700070007ULL) | ((window >> 1) & 0x003800380038ULL) |
                        ((window >> 2) & 0x01c001c001c0ULL);
  return static_cast<uint32_t>((rows & 0x1ffu) | ((rows >> 16 & 0x1ffu) << 9) |
                               ((rows >> 32 & 0x1ffu) << 18));
}

}  // namespace tsl
