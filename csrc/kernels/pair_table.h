// SPDX-License-Identifier: MIT
// Pair lists turned into a neighbour table: what feeds each output row, taps ascending.
//
//   check the taps | set the bit of each pair | count and sum the bits | write the inputs
//
// Pools and channelwise convolutions do next to no arithmetic, so on a GPU each output should be
// written once, by the item that owns it, and not be added to pair after pair. Pair lists come tap
// by tap; owners read row by row. The table is the cheapest such view: inside a tap output rows
// ascend, so bits and inputs go to neighbouring places, and in all 16 bytes a pair and 40 a row are
// moved. A stable sort by output row would move 16 bytes a pair in each of its passes, one for
// every 8 bits of the row. These operators make it anew in each call; table_of_pairs gives it to
// those who keep it. Memory: 12 bytes a row (4 more for each further 32 taps) and 4 a pair, and
// what summing needs.
#pragma once

#include <cstdint>

#include "core/atomic.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/neighbor_rows.h"
#include "kernels/pairs.h"
#include "kernels/passes.h"

namespace tsl {

/// Pair lists as the operators receive them. Tiles cut the work of the CPU; here the first row of a
/// tile_ptr says where taps begin, and the last where they end. Behind the last tap there may be
/// room, which is not read.
struct CheckedPairs {
  const int32_t* in_index;   // (num_pairs,)
  const int32_t* out_index;  // (num_pairs,)
  const int64_t* begins;     // (kernel_volume,)
  const int64_t* ends;       // (kernel_volume,)
  int64_t num_pairs;
  int64_t num_in;
  int64_t num_out;
  int kernel_volume;

  TSL_HOST_DEVICE int32_t input(int64_t pair) const {
    const int32_t row = in_index[pair];
    if (row < 0 || row >= num_in) {
      refuse_row("pairs: in_index must be rows of the input", pair, "Point at existing rows.");
    }
    return row;
  }
  TSL_HOST_DEVICE int32_t output(int64_t pair) const {
    const int32_t row = out_index[pair];
    if (row < 0 || row >= num_out) {
      refuse_row("pairs: out_index must be rows of the output", pair, "Point at existing rows.");
    }
    return row;
  }
};

/// Fills tap_ptr (kernel_volume + 1,); an item is an entry.
struct WriteTapBegins {
  CheckedPairs pairs;
  int64_t* tap_ptr;

  TSL_HOST_DEVICE void operator()(int64_t tap) const {
    const bool is_end = tap == pairs.kernel_volume;
    const int64_t last_end = tap > 0 ? pairs.ends[tap - 1] : 0;
    const int64_t begin = is_end ? last_end : pairs.begins[tap];
    if (begin != last_end || begin > pairs.num_pairs || (!is_end && pairs.ends[tap] < begin)) {
      refuse_row("pairs: tap_ptr and tile_ptr must cut the pairs into taps", tap,
                 "Take those of the same map.");
    }
    tap_ptr[tap] = begin;
  }
};

/// Where the pairs of each tap begin, and their end.
template <class Executor>
const int64_t* tap_begins(Executor& executor, const CheckedPairs& pairs) {
  const auto [tap_ptr] = scratch<int64_t>(executor, {pairs.kernel_volume + 1});
  executor.for_each(pairs.kernel_volume + 1, WriteTapBegins{pairs, tap_ptr});
  return tap_ptr;
}

struct MarkPairs {
  CheckedPairs pairs;
  PairsView taps;
  NeighborArrays out;  // mask: zeros

  TSL_HOST_DEVICE void operator()(int64_t pair) const {
    if (pair >= taps.used()) return;
    const int tap = taps.tap_of(pair);
    const int32_t row = pairs.output(pair);
    if (pair > taps.tap_ptr[tap] && pairs.out_index[pair - 1] >= row) {
      refuse_row("pairs: out_index must ascend inside a tap", pair,
                 "Pass the pairs of one kernel map.");
    }
    atomic_or(out.mask + int64_t{row} * out.words + tap / kMaskBits, 1u << (tap % kMaskBits));
  }
};

struct WritePairs {
  CheckedPairs pairs;
  PairsView taps;
  NeighborArrays out;

  TSL_HOST_DEVICE void operator()(int64_t pair) const {
    if (pair >= taps.used()) return;
    const int64_t place = out.table().place(pairs.out_index[pair], taps.tap_of(pair));
    out.rows[place] = pairs.input(pair);
  }
};

/// Fills a table that has room for all pairs.
template <class Executor>
void table_of_pairs(Executor& executor, const CheckedPairs& pairs, const NeighborArrays& out) {
  const PairsView taps{pairs.in_index, pairs.out_index, tap_begins(executor, pairs),
                       pairs.num_pairs, pairs.kernel_volume};
  executor.for_each(pairs.num_out * out.words, Fill<uint32_t>{out.mask, 0});
  executor.for_each(pairs.num_pairs, MarkPairs{pairs, taps, out});
  executor.for_each(pairs.num_out + 1, CountNeighbors{out, pairs.num_out});
  executor.exclusive_sum(out.ptr, pairs.num_out + 1);
  executor.for_each(pairs.num_pairs, WritePairs{pairs, taps, out});
}

/// The same in temporary memory.
template <class Executor>
NeighborTable table_of_pairs(Executor& executor, const CheckedPairs& pairs) {
  const int words = mask_words(pairs.kernel_volume);
  const auto [mask, ptr, rows] = scratch<uint32_t, int64_t, int32_t>(
      executor, {pairs.num_out * words, pairs.num_out + 1, pairs.num_pairs});
  const NeighborArrays out{mask, ptr, rows, words};
  table_of_pairs(executor, pairs, out);
  return out.table();
}

}  // namespace tsl
