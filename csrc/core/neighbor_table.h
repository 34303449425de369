// SPDX-License-Identifier: MIT
// Who feeds whom: for every output row a bit mask over the taps and the input rows behind the set
// bits, packed in tap order. This is the row-major view of a kernel map; the tap-major view (pair
// lists) is derived from it.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/macros.h"

namespace tsl {

constexpr int kMaskBits = 32;

TSL_HOST_DEVICE int mask_words(int kernel_volume) {
  return (kernel_volume + kMaskBits - 1) / kMaskBits;
}

/// Read-only view; all arrays belong to the caller.
struct NeighborTable {
  const uint32_t* mask;  // (num_out, words) bit t % 32 of word t / 32: tap t has an input
  const int64_t* ptr;    // (num_out + 1,) into rows
  const int32_t* rows;   // (num_pairs,) input rows, taps ascending
  int words;

  TSL_HOST_DEVICE bool has(int64_t row, int tap) const {
    return (mask[row * words + tap / kMaskBits] >> (tap % kMaskBits) & 1u) != 0;
  }

  /// Where in `rows` the neighbour through a tap stands; there must be one.
  TSL_HOST_DEVICE int64_t place(int64_t row, int tap) const {
    const uint32_t* const word = mask + row * words;
    int64_t at = ptr[row];
    for (int w = 0; w < tap / kMaskBits; ++w) at += count_bits(word[w]);
    return at + count_bits(word[tap / kMaskBits] & ((1u << (tap % kMaskBits)) - 1u));
  }

  /// visit(tap, input row) for every neighbour of `row`, taps ascending.
  template <class Visit>
  TSL_HOST_DEVICE void for_each(int64_t row, const Visit& visit) const {
    int64_t next = ptr[row];
    for (int w = 0; w < words; ++w) {
      for (uint32_t bits = mask[row * words + w]; bits; bits &= bits - 1) {
        visit(w * kMaskBits + lowest_bit(bits), rows[next++]);
      }
    }
  }
};

}  // namespace tsl
