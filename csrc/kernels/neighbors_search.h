// SPDX-License-Identifier: MIT
// Neighbours by hashing, for any geometry: an item is one site and one tap.
//
//   look every tap up and set its bit | count and sum the bits | look up what is there, and write
//
// The second look is cheaper than keeping what the first has found: most taps find nothing, and the
// filter of the table turns them away. Waits for the device once, for the number of pairs.
// Memory: none of its own.
#pragma once

#include <cstdint>

#include "core/atomic.h"
#include "core/conv_geometry.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "kernels/neighbor_rows.h"
#include "kernels/passes.h"

namespace tsl {

struct WindowSearch {
  const Coord* coords;  // (num_out,) coarse sites
  HashTableView table;  // of the fine sites
  ConvGeometry geometry;
  bool inverse;  // coords are the fine sites, the table holds the coarse ones

  TSL_HOST_DEVICE int32_t find(int64_t row, int tap) const {
    if (is_dead(coords[row])) return kNoRow;
    const Tap at = geometry.tap(tap);
    Coord site;
    const bool is_there = inverse ? geometry.coarse_from_fine(coords[row], at, &site)
                                  : geometry.fine_from_coarse(coords[row], at, &site);
    return is_there ? table.find_filtered(packed_key(site)) : kNoRow;
  }
};

struct MarkNeighbors {
  WindowSearch search;
  int kernel_volume;
  NeighborArrays out;  // mask: zeros

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / kernel_volume;
    const int tap = static_cast<int>(i % kernel_volume);
    if (search.find(row, tap) == kNoRow) return;
    atomic_or(out.mask + row * out.words + tap / kMaskBits, 1u << (tap % kMaskBits));
  }
};

struct WriteNeighbors {
  WindowSearch search;
  int kernel_volume;
  NeighborArrays out;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / kernel_volume;
    const int tap = static_cast<int>(i % kernel_volume);
    const NeighborTable table = out.table();
    if (table.has(row, tap)) out.rows[table.place(row, tap)] = search.find(row, tap);
  }
};

/// allocate(pairs, &out) sets rows.
template <class Executor, class Allocate>
void neighbors_search(Executor& executor, const WindowSearch& search, int64_t num_out,
                      NeighborArrays out, const Allocate& allocate) {
  const int volume = search.geometry.kernel_volume();
  executor.for_each(num_out * out.words, Fill<uint32_t>{out.mask, 0});
  executor.for_each(num_out * volume, MarkNeighbors{search, volume, out});
  allocate_rows(executor, num_out, allocate, &out);
  executor.for_each(num_out * volume, WriteNeighbors{search, volume, out});
}

}  // namespace tsl
