// SPDX-License-Identifier: MIT
// The 8 voxels around each point, and how much each counts in trilinear interpolation.
//
// Item i is one point. A voxel's value sits at its anchor, `anchor` cells from its lower corner.
// The point is `offset` cells from the anchor of its own cell; it is taken to be inside that cell,
// whatever was rounded, so the voxel of a point always has a weight:
//   offset = clamp(((xyz - origin) / voxel_size - cell * stride) / stride, 0, 1 - eps) - anchor
// The 8 begin at the point's cell, or one before it where the offset is negative. With the
// distances f from the first of the 8:
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
constexpr Coord kNowhere{-1, 0, 0, 0};  // out of range, and so are all its corners

template <class T>
constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
template <class T>
constexpr T kLeastNormal = std::numeric_limits<T>::min();

/// Numbers per axis.
template <class T>
struct Lattice {
  T origin[3];      // in metres
  T voxel_size[3];  // in metres
  T stride[3];      // fine voxels per cell
  T anchor;         // in cells, from the lower corner

  TSL_HOST_DEVICE T offset(T along, int32_t cell, int axis) const {
    const T position = (along - origin[axis]) / voxel_size[axis];
    const T inside = (position - static_cast<T>(cell) * stride[axis]) / stride[axis];
    const T last = 1 - kEpsilon<T>;
    return (inside < 0 ? T(0) : inside > last ? last : inside) - anchor;
  }
};

template <class T>
struct Corners {
  HashTableView table;  // of the voxels
  const T* xyz;         // (N, 3) in metres
  const Coord* cells;   // (N,) the cell of each point
  Lattice<T> lattice;
  bool renormalize;
  int64_t* index;  // (N, 8) rows, kNoRow where there is no voxel
  T* weight;       // (N, 8)

  /// The first of the 8 voxels around a point, and the distances from it in cells.
  struct Place {
    Coord low;
    T x, y, z;
  };

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const Place place = locate(i);
    int64_t rows[kCorners];
    find(place.low, rows);
    write(i, place, rows);
  }

  TSL_HOST_DEVICE Place locate(int64_t i) const {
    Coord low = cells[i];
    if (!in_range(low)) return {kNowhere, 0, 0, 0};
    const T x = from_lower(lattice.offset(xyz[3 * i], low.x, 0), &low.x);
    const T y = from_lower(lattice.offset(xyz[3 * i + 1], low.y, 1), &low.y);
    const T z = from_lower(lattice.offset(xyz[3 * i + 2], low.z, 2), &low.z);
    return {low, x, y, z};
  }

  TSL_HOST_DEVICE void find(const Coord& low, int64_t* rows) const {
    for (int c = 0; c < kCorners; ++c) {
      const Coord voxel{low.batch, low.x + (c >> 2), low.y + ((c >> 1) & 1), low.z + (c & 1)};
      rows[c] = in_range(voxel) ? table.find(packed_key(voxel)) : kNoRow;
    }
  }

  TSL_HOST_DEVICE void write(int64_t i, const Place& place, const int64_t* rows) const {
    T sum = 0;
    for (int c = 0; c < kCorners; ++c) {
      const T share = (c & 4 ? place.x : 1 - place.x) * (c & 2 ? place.y : 1 - place.y) *
                      (c & 1 ? place.z : 1 - place.z);
      index[kCorners * i + c] = rows[c];
      weight[kCorners * i + c] = rows[c] == kNoRow ? T(0) : share;
      sum += weight[kCorners * i + c];
    }
    if (!renormalize) return;
    constexpr T least = kLeastNormal<T>;
    for (int c = 0; c < kCorners; ++c) weight[kCorners * i + c] /= sum < least ? least : sum;
  }

  /// Distance from the lower of the two voxels along an axis, which becomes that voxel.
  TSL_HOST_DEVICE static T from_lower(T along, int32_t* axis) {
    if (!(along < 0)) return along;
    *axis -= 1;
    return along + 1;
  }
};

}  // namespace tsl
