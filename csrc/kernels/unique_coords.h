// SPDX-License-Identifier: MIT
// Rows grouped by equal coordinates, groups in Morton order, rows inside a group in input order.
//
//   key of each row | sort the rows by key, stable | number the runs of equal keys | write
//
// Waits for the device once, for the number of groups. Memory: 28 bytes a row and what sorting and
// summing need.
#pragma once

#include <cstdint>

#include "core/atomic.h"
#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "kernels/passes.h"

namespace tsl {

constexpr int kMortonBits = 64;

struct MortonKeys {
  const Coord* coords;
  uint64_t* keys;
  int32_t* rows;
  int32_t* bad_row;  // the least row out of range; kNoRow before the first

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const bool is_bad = !in_range(coords[i]);
    if (is_bad) atomic_min_row(bad_row, static_cast<int32_t>(i));
    keys[i] = is_bad ? 0 : morton_key(coords[i]);
    rows[i] = static_cast<int32_t>(i);
  }
};

struct KeyChanges {
  const uint64_t* keys;

  TSL_HOST_DEVICE bool operator()(int64_t i) const { return i == 0 || keys[i] != keys[i - 1]; }
};

/// What grouping makes of N rows.
struct UniqueArrays {
  int64_t* point_to_voxel;  // (N,) group of each row
  int64_t* order;           // (N,) rows, group after group
  Coord* voxels;            // (groups,)
  int64_t* ptr;             // (groups + 1,) into order
};

/// Item i is a place in the order; one item more ends the last group.
struct WriteUnique {
  const Coord* coords;
  const int32_t* rows;  // sorted
  int64_t count;
  Runs groups;
  UniqueArrays out;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (i == count) {
      out.ptr[groups.before[count]] = count;
      return;
    }
    const int32_t row = rows[i];
    const int32_t group = groups.run_of(i);
    out.order[i] = row;
    out.point_to_voxel[row] = group;
    if (groups.begins(i)) {
      out.voxels[group] = coords[row];
      out.ptr[group] = i;
    }
  }
};

/// allocate(groups, &out) sets voxels and ptr. Returns the first row out of range, and then has
/// allocated nothing, or kNoRow.
template <class Executor, class Allocate>
int64_t unique_coords(Executor& executor, const Coord* coords, int64_t count, UniqueArrays out,
                      const Allocate& allocate) {
  const auto [keys, spare_keys, rows, spare_rows, before] =
      scratch<uint64_t, uint64_t, int32_t, int32_t, int32_t>(
          executor, {count, count, count, count, count + 2});
  int32_t* const bad_row = before + count + 1;  // read together with the number of groups
  executor.for_each(1, Fill<int32_t>{bad_row, kNoRow});
  executor.for_each(count, MortonKeys{coords, keys, rows, bad_row});
  const auto sorted = executor.sort_pairs(keys, spare_keys, rows, spare_rows, count, kMortonBits);
  const Runs groups = number_runs(executor, count, KeyChanges{sorted.keys}, before);
  const auto [num_groups, first_bad] = executor.template read<2>(before + count);
  if (first_bad != kNoRow) return first_bad;
  allocate(num_groups, &out);
  executor.for_each(count + 1, WriteUnique{coords, sorted.values, count, groups, out});
  return kNoRow;
}

}  // namespace tsl
