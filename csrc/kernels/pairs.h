// SPDX-License-Identifier: MIT
// Pair lists: a kernel map tap after tap. Nothing waits for the device.
//
//   pairs_by_tap     count the pairs of each tap in each block of rows | sum | write
//   transpose_pairs  key (tap, input) | sort the outputs by key, stable | read the inputs off it
//   tile_pairs       an item is one tile and one tap: a binary search
//
// Memory: pairs_by_tap 8 bytes a tap and block; transpose_pairs 24 bytes a pair and what sorting
// needs.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/neighbor_rows.h"
#include "kernels/passes.h"

namespace tsl {

/// Pair lists to be filled.
struct PairLists {
  int32_t* in_index;   // (num_pairs,)
  int32_t* out_index;  // (num_pairs,) ascending inside a tap
  int64_t* tap_ptr;    // (kernel_volume + 1,)
};

/// The rows of a table in blocks; an item is one tap and one block, taps first.
struct TapBlocks {
  static constexpr int64_t kRows = 32;

  NeighborTable table;
  int64_t num_out;
  int64_t blocks;
  int64_t* places;  // (kernel_volume * blocks + 1,)

  /// visit(row, tap) for the rows of the item that have the tap.
  template <class Visit>
  TSL_HOST_DEVICE void for_each(int64_t item, const Visit& visit) const {
    const int tap = static_cast<int>(item / blocks);
    const int64_t begin = item % blocks * kRows;
    const int64_t end = begin + kRows < num_out ? begin + kRows : num_out;
    for (int64_t row = begin; row < end; ++row) {
      if (table.has(row, tap)) visit(row, tap);
    }
  }
};

/// One item more than there are, for the sum.
struct CountTapPairs {
  TapBlocks rows;
  int64_t items;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    int64_t pairs = 0;
    if (item < items) rows.for_each(item, [&](int64_t, int) { ++pairs; });
    rows.places[item] = pairs;
  }
};

struct WriteTapPairs {
  TapBlocks rows;
  PairLists out;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    int64_t at = rows.places[item];
    rows.for_each(item, [&](int64_t row, int tap) {
      out.in_index[at] = rows.table.rows[rows.table.place(row, tap)];
      out.out_index[at++] = static_cast<int32_t>(row);
    });
  }
};

struct WriteTapPtr {
  TapBlocks rows;
  PairLists out;

  TSL_HOST_DEVICE void operator()(int64_t tap) const {
    out.tap_ptr[tap] = rows.places[tap * rows.blocks];
  }
};

template <class Executor>
void pairs_by_tap(Executor& executor, const NeighborTable& table, int64_t num_out,
                  int64_t num_pairs, int kernel_volume, const PairLists& out) {
  const int64_t blocks = (num_out + TapBlocks::kRows - 1) / TapBlocks::kRows;
  const int64_t items = kernel_volume * blocks;
  const auto [places] = scratch<int64_t>(executor, {items + 1});
  const TapBlocks rows{table, num_out, blocks, places};
  executor.for_each(num_out + 1, CheckTable{table, num_out, num_pairs, kernel_volume});
  executor.for_each(items + 1, CountTapPairs{rows, items});
  executor.exclusive_sum(places, items + 1);
  executor.for_each(items, WriteTapPairs{rows, out});
  executor.for_each(kernel_volume + 1, WriteTapPtr{rows, out});
}

/// Pair lists to be read. An input that a tap names twice keeps the order of its pairs. Behind the
/// last tap there may be room, which is not read.
struct PairsView {
  const int32_t* in_index;   // (num_pairs,)
  const int32_t* out_index;  // (num_pairs,)
  const int64_t* tap_ptr;    // (kernel_volume + 1,)
  int64_t num_pairs;
  int kernel_volume;

  TSL_HOST_DEVICE int64_t used() const { return tap_ptr[kernel_volume]; }

  /// The tap of a pair.
  TSL_HOST_DEVICE int tap_of(int64_t pair) const {
    int low = 0;
    int high = kernel_volume - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (tap_ptr[middle] <= pair) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
};

struct TransposeKeys {
  PairsView pairs;
  int64_t num_in;
  uint64_t* keys;
  int32_t* outputs;

  TSL_HOST_DEVICE void operator()(int64_t pair) const {
    if (pair >= pairs.used()) {
      keys[pair] = static_cast<uint64_t>(pairs.kernel_volume * num_in);  // behind all others
      outputs[pair] = 0;
      return;
    }
    const int32_t input = pairs.in_index[pair];
    if (input < 0 || input >= num_in) {
      refuse_row("transpose_pairs: in_index must be rows of the input", pair,
                 "Point at existing rows.");
    }
    keys[pair] = static_cast<uint64_t>(pairs.tap_of(pair) * num_in + input);
    outputs[pair] = pairs.out_index[pair];
  }
};

struct WriteTransposed {
  PairsView pairs;
  SortedPairs<uint64_t, int32_t> sorted;
  int64_t num_in;
  int32_t* new_in;
  int32_t* new_out;

  TSL_HOST_DEVICE void operator()(int64_t pair) const {
    if (pair >= pairs.used()) return;
    new_in[pair] = sorted.values[pair];
    new_out[pair] = static_cast<int32_t>(sorted.keys[pair] % static_cast<uint64_t>(num_in));
  }
};

template <class Executor>
void transpose_pairs(Executor& executor, const PairsView& pairs, int64_t num_in, int32_t* new_in,
                     int32_t* new_out) {
  const int64_t count = pairs.num_pairs;
  const auto [keys, spare_keys, outputs, spare_outputs] =
      scratch<uint64_t, uint64_t, int32_t, int32_t>(executor, {count, count, count, count});
  int bits = 1;
  while (pairs.kernel_volume * num_in >= int64_t{1} << bits) ++bits;
  executor.for_each(count, TransposeKeys{pairs, num_in, keys, outputs});
  const auto sorted = executor.sort_pairs(keys, spare_keys, outputs, spare_outputs, count, bits);
  executor.for_each(count, WriteTransposed{pairs, sorted, num_in, new_in, new_out});
}

/// tile_ptr[t * K + k]: first pair of tap k whose output row is in tile t or later.
struct TilePairs {
  PairsView pairs;
  int64_t tile_rows;
  int64_t* tile_ptr;  // (tiles + 1, kernel_volume)

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t tap = item % pairs.kernel_volume;
    const int64_t first_row = item / pairs.kernel_volume * tile_rows;
    int64_t low = pairs.tap_ptr[tap];
    int64_t high = pairs.tap_ptr[tap + 1];
    if (low < 0 || high < low || high > pairs.num_pairs) {
      refuse_row("tile_pairs: tap_ptr must ascend from 0 to the number of pairs", tap,
                 "Give where each tap begins, and the end.");
    }
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (pairs.out_index[middle] < first_row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    tile_ptr[item] = low;
  }
};

}  // namespace tsl
