// SPDX-License-Identifier: MIT
// Points to voxels, and what is checked of coordinates. An item is one point or one coordinate.
//
//   coords[i] = (batch[i], floor((xyz[i] - origin) / voxel_size)), in the type of the points
//
// A voxel outside the representable range is refused; the first such row is found by a minimum over
// rows. Under a capacity batch -1 gives a dead coordinate. Memory: one word.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/atomic.h"
#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "kernels/passes.h"

namespace tsl {

/// What quantize refuses, and where it met it first.
struct QuantizeResult {
  int64_t bad_row = kNoRow;
  bool is_finite = true;
};

template <class T>
struct Quantize {
  const T* xyz;          // (N, 3)
  const int32_t* batch;  // (N,) or null: all zero
  T size[3];
  T origin[3];
  Coord* coords;          // (N,)
  bool has_dead = false;  // so points may be dead, and those that are refused become dead

  TSL_HOST_DEVICE T cell(int64_t i, int axis) const {
    return std::floor((xyz[3 * i + axis] - origin[axis]) / size[axis]);
  }

  TSL_HOST_DEVICE static bool fits(T v) { return v >= T(kAxisMin) && v <= T(kAxisMax); }

  /// False where the point is refused; NaN does not fit.
  TSL_HOST_DEVICE bool row(int64_t i) const {
    if (has_dead) coords[i] = dead_coord();
    if (has_dead && batch && batch[i] == kDeadBatch) return true;
    const T x = cell(i, 0);
    const T y = cell(i, 1);
    const T z = cell(i, 2);
    if (!(fits(x) && fits(y) && fits(z))) return false;
    const Coord voxel{batch ? batch[i] : 0, static_cast<int32_t>(x), static_cast<int32_t>(y),
                      static_cast<int32_t>(z)};
    if (!in_range(voxel)) return false;
    coords[i] = voxel;
    return true;
  }
};

template <class T>
Quantize<T> quantizer(const T* xyz, const int32_t* batch, const double voxel_size[3],
                      const double origin[3], Coord* coords) {
  return Quantize<T>{xyz,
                     batch,
                     {T(voxel_size[0]), T(voxel_size[1]), T(voxel_size[2])},
                     {T(origin[0]), T(origin[1]), T(origin[2])},
                     coords};
}

template <class T>
struct QuantizeRow {
  Quantize<T> quantize;
  int32_t* bad_row;  // kNoRow before the first

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (!quantize.row(i)) atomic_min_row(bad_row, static_cast<int32_t>(i));
  }
};

struct CheckRange {
  const Coord* coords;
  int32_t* bad_row;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (!in_range(coords[i])) atomic_min_row(bad_row, static_cast<int32_t>(i));
  }
};

/// Item i compares rows i and i + 1.
struct CheckMortonOrder {
  const Coord* coords;
  int32_t* bad_row;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (morton_key(coords[i + 1]) <= morton_key(coords[i])) {
      atomic_min_row(bad_row, static_cast<int32_t>(i));
    }
  }
};

/// The least row that check(bad_row) notes among `count` items, or kNoRow.
template <class Executor, class MakeCheck>
int64_t first_bad_row(Executor& executor, int64_t count, const MakeCheck& check) {
  if (count <= 0) return kNoRow;
  const auto [bad_row] = scratch<int32_t>(executor, {1});
  executor.for_each(1, Fill<int32_t>{bad_row, kNoRow});
  executor.for_each(count, check(bad_row));
  return settle<1>(executor, bad_row, {kNoRow})[0];
}

template <class Executor, class T>
QuantizeResult quantize(Executor& executor, Quantize<T> rows, int64_t count) {
  rows.has_dead = executor.has_capacity();
  QuantizeResult result;
  result.bad_row = first_bad_row(executor, count,
                                 [&](int32_t* bad_row) { return QuantizeRow<T>{rows, bad_row}; });
  if (result.bad_row == kNoRow) return result;
  for (const T v : executor.template read<3>(rows.xyz + 3 * result.bad_row)) {
    result.is_finite = result.is_finite && std::isfinite(v);
  }
  return result;
}

template <class Executor>
int64_t first_out_of_range(Executor& executor, const Coord* coords, int64_t count) {
  return first_bad_row(executor, count,
                       [&](int32_t* bad_row) { return CheckRange{coords, bad_row}; });
}

template <class Executor>
bool is_morton_ordered(Executor& executor, const Coord* coords, int64_t count) {
  return first_bad_row(executor, count - 1, [&](int32_t* bad_row) {
           return CheckMortonOrder{coords, bad_row};
         }) == kNoRow;
}

}  // namespace tsl
