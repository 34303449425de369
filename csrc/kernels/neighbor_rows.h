// SPDX-License-Identifier: MIT
// What all searches for neighbours do once the masks are known: count, sum, and ask for the rows.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/passes.h"

namespace tsl {

/// A neighbour table to be filled.
struct NeighborArrays {
  uint32_t* mask;  // (num_out, words)
  int64_t* ptr;    // (num_out + 1,)
  int32_t* rows;   // (num_pairs,)
  int words;

  TSL_HOST_DEVICE NeighborTable table() const { return NeighborTable{mask, ptr, rows, words}; }
};

/// One item more than there are rows, for the sum.
struct CountNeighbors {
  NeighborArrays out;
  int64_t num_out;

  TSL_HOST_DEVICE void operator()(int64_t row) const {
    int64_t neighbors = 0;
    for (int w = 0; row < num_out && w < out.words; ++w) {
      neighbors += count_bits(out.mask[row * out.words + w]);
    }
    out.ptr[row] = neighbors;
  }
};

/// Empties a table whose pairs do not fit, but for the number of pairs; an item is a word of the
/// masks.
struct EmptyRows {
  NeighborArrays out;
  int64_t num_out;
  int64_t capacity;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (out.ptr[num_out] <= capacity) return;
    out.mask[i] = 0;
    if (i < num_out) out.ptr[i] = 0;
  }
};

/// And the number of pairs.
struct EmptyTotal {
  int64_t* pairs;
  int64_t capacity;

  TSL_HOST_DEVICE void operator()(int64_t) const {
    if (*pairs > capacity) *pairs = 0;
  }
};

/// Fills ptr from mask, and has the rows allocated: allocate(pairs, &out). Waits for the device
/// once, or under a capacity empties a table that does not fit.
template <class Executor, class Allocate>
void allocate_rows(Executor& executor, int64_t num_out, const Allocate& allocate,
                   NeighborArrays* out) {
  executor.for_each(num_out + 1, CountNeighbors{*out, num_out});
  executor.exclusive_sum(out->ptr, num_out + 1);
  const auto [pairs] = settle<1>(executor, out->ptr + num_out, {executor.capacity()});
  allocate(pairs, out);
  if (!executor.has_capacity()) return;
  executor.for_each(num_out * out->words, EmptyRows{*out, num_out, pairs});
  executor.for_each(1, EmptyTotal{out->ptr + num_out, pairs});
}

/// Refuses a table whose parts do not fit; an item is a row, and one item more. There may be room
/// behind the last pair, which is not read.
struct CheckTable {
  NeighborTable table;
  int64_t num_out;
  int64_t num_pairs;
  int kernel_volume;

  TSL_HOST_DEVICE void operator()(int64_t row) const {
    const int64_t begin = table.ptr[row];
    const int64_t end = row < num_out ? table.ptr[row + 1] : num_pairs;
    if (begin < 0 || end < begin || end > num_pairs || (row == 0 && begin != 0)) {
      refuse_row("neighbors: ptr must ascend from 0 to no more than the number of pairs", row,
                 "Pass mask, ptr and rows of one search.");
    }
    if (row == num_out) return;
    const uint32_t* const word = table.mask + row * table.words;
    int64_t neighbors = 0;
    for (int w = 0; w < table.words; ++w) neighbors += count_bits(word[w]);
    const int last_taps = kernel_volume - (table.words - 1) * kMaskBits;
    const uint32_t beyond = last_taps == kMaskBits ? 0 : ~uint32_t{0} << last_taps;
    if (neighbors != end - begin || (word[table.words - 1] & beyond) != 0) {
      refuse_row("neighbors: mask must have one bit per neighbour and none beyond the last tap",
                 row, "Pass mask, ptr and rows of one search.");
    }
  }
};

}  // namespace tsl
