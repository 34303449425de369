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

/// Fills ptr from mask, and has the rows allocated: allocate(pairs, &out). Waits for the device
/// once.
template <class Executor, class Allocate>
void allocate_rows(Executor& executor, int64_t num_out, const Allocate& allocate,
                   NeighborArrays* out) {
  executor.for_each(num_out + 1, CountNeighbors{*out, num_out});
  executor.exclusive_sum(out->ptr, num_out + 1);
  const auto [pairs] = executor.template read<1>(out->ptr + num_out);
  allocate(pairs, out);
}

/// Refuses a table whose parts do not fit; an item is a row, and one item more.
struct CheckTable {
  NeighborTable table;
  int64_t num_out;
  int64_t num_pairs;
  int kernel_volume;

  TSL_HOST_DEVICE void operator()(int64_t row) const {
    const int64_t begin = table.ptr[row];
    const int64_t end = row < num_out ? table.ptr[row + 1] : num_pairs;
    const bool is_cut = begin >= 0 && end >= begin && end <= num_pairs && (row > 0 || begin == 0) &&
                        (row < num_out || begin == num_pairs);
    if (!is_cut) {
      refuse_row("neighbors: ptr must ascend from 0 to the number of pairs", row,
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
