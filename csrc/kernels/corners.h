// SPDX-License-Identifier: MIT
// The 8 voxels around each point, and how much each counts in trilinear interpolation.
//
// Item i is one point. A voxel's value sits at its anchor. The point is `offset` cells from the
// anchor of its own cell, so the 8 begin at that cell, or one before it where the offset is
// negative. With the distances f from the first of the 8:
//   weight = product over the axes of (f for the upper voxel, 1 - f for the lower), 0 if missing
//   renormalized: each divided by the sum of the 8, added from the first to the last
// Corners are in the order of their offsets (0, 0, 0), (0, 0, 1), (0, 1, 0), ...
#pragma once

#include <cstdint>
#include <limits>

#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"

namespace tsl {

constexpr int kCorners = 8;

template <class T>
constexpr T kLeastNormal = std::numeric_limits<T>::min();

template <class T>
struct Corners {
  HashTableView table;  // of the voxels
  const Coord* cells;   // (N,) the cell of each point
  const T* offset;      // (N, 3) in [-1, 1)
  bool renormalize;
  int64_t* index;  // (N, 8) rows, kNoRow where there is no voxel
  T* weight;       // (N, 8)

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    Coord low = cells[i];
    if (!in_range(low)) return none(i);  // moving it might overflow
    const T fx = from_lower(offset[3 * i], &low.x);
    const T fy = from_lower(offset[3 * i + 1], &low.y);
    const T fz = from_lower(offset[3 * i + 2], &low.z);
    T sum = 0;
    for (int c = 0; c < kCorners; ++c) {
      const int x = c >> 2, y = (c >> 1) & 1, z = c & 1;
      const int64_t row = find({low.batch, low.x + x, low.y + y, low.z + z});
      const T share = (x ? fx : 1 - fx) * (y ? fy : 1 - fy) * (z ? fz : 1 - fz);
      index[kCorners * i + c] = row;
      weight[kCorners * i + c] = row == kNoRow ? T(0) : share;
      sum += weight[kCorners * i + c];
    }
    if (!renormalize) return;
    constexpr T least = kLeastNormal<T>;
    for (int c = 0; c < kCorners; ++c) weight[kCorners * i + c] /= sum < least ? least : sum;
  }

  TSL_HOST_DEVICE void none(int64_t i) const {
    for (int64_t c = kCorners * i; c < kCorners * (i + 1); ++c) {
      index[c] = kNoRow;
      weight[c] = 0;
    }
  }

  TSL_HOST_DEVICE int64_t find(const Coord& voxel) const {
    return in_range(voxel) ? table.find(packed_key(voxel)) : kNoRow;
  }

  /// Distance from the lower of the two voxels along an axis, which becomes that voxel.
  TSL_HOST_DEVICE static T from_lower(T along, int32_t* axis) {
    if (!(along < 0)) return along;
    *axis -= 1;
    return along + 1;
  }
};

}  // namespace tsl
