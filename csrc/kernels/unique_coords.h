// SPDX-License-Identifier: MIT
// Rows grouped by equal coordinates, groups in Morton order, rows inside a group in input order.
//
//   key of each row | sort the rows by key, stable | number the runs of equal keys | write
//
// Waits for the device once, for the number of groups. Under a capacity there may be dead rows,
// which come last. They sort by the key of the last coordinate of all, which is refused then.
// Memory: 28 bytes a row and what sorting and summing need.
#pragma once

#include <cstdint>

#include "core/atomic.h"
#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "kernels/passes.h"

namespace tsl {

constexpr int kMortonBits = 64;
constexpr uint64_t kDeadKey = ~uint64_t{0};

struct MortonKeys {
  const Coord* coords;
  uint64_t* keys;
  int32_t* rows;
  int32_t* bad_row;  // the least row that is refused; kNoRow before the first
  bool has_dead;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    rows[i] = static_cast<int32_t>(i);
    const bool fits = in_range(coords[i]);
    keys[i] = fits ? morton_key(coords[i]) : kDeadKey;
    const bool is_bad = has_dead ? keys[i] == kDeadKey && !is_dead(coords[i]) : !fits;
    if (is_bad) atomic_min_row(bad_row, static_cast<int32_t>(i));
  }
};

/// The keys in order. An item is a place.
struct SortedKeys {
  const uint64_t* keys;
  int64_t count;
  bool has_dead;

  /// Whether the live rows end before a place.
  TSL_HOST_DEVICE bool is_behind(int64_t i) const {
    return i == count || (has_dead && keys[i] == kDeadKey);
  }
  /// Whether a group begins.
  TSL_HOST_DEVICE bool operator()(int64_t i) const {
    return !is_behind(i) && (i == 0 || keys[i] != keys[i - 1]);
  }
};

/// What grouping makes of N rows.
struct UniqueArrays {
  int64_t* point_to_voxel;  // (N,) group of each row
  int64_t* order;           // (N,) rows, group after group
  Coord* voxels;            // (groups,)
  int64_t* ptr;             // (groups + 1,) into order
};

/// Item i is a place in the order; one item more ends the last group where no dead row does.
struct WriteUnique {
  const Coord* coords;
  const int32_t* rows;  // sorted
  SortedKeys keys;
  Runs groups;
  UniqueArrays out;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const bool is_behind = keys.is_behind(i);
    const bool is_end = is_behind && (i == 0 || !keys.is_behind(i - 1));
    if (is_end && groups.size() <= groups.room) out.ptr[groups.size()] = i;
    if (i == keys.count) return;
    const int32_t row = rows[i];
    out.order[i] = row;
    out.point_to_voxel[row] = is_behind ? 0 : groups.written_run_of(i);
    if (!groups.begins(i)) return;
    const int32_t group = groups.run_of(i);
    if (group <= groups.room) out.ptr[group] = i;
    if (group < groups.room) out.voxels[group] = coords[row];
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
  executor.for_each(count, MortonKeys{coords, keys, rows, bad_row, executor.has_capacity()});
  const auto sorted = executor.sort_pairs(keys, spare_keys, rows, spare_rows, count, kMortonBits);
  const SortedKeys in_order{sorted.keys, count, executor.has_capacity()};
  const Runs groups = number_runs(executor, count, in_order, before);
  const auto [num_groups, first_bad] =
      settle<2>(executor, before + count, {executor.capacity(), kNoRow});
  if (first_bad != kNoRow) return first_bad;
  allocate(num_groups, &out);
  executor.for_each(count + 1, WriteUnique{coords, sorted.values, in_order, groups, out});
  write_dead(executor, groups, out.voxels, out.ptr);
  return kNoRow;
}

}  // namespace tsl
