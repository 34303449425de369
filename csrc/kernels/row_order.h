// SPDX-License-Identifier: MIT
// In which order implicit GEMM takes the rows of a kernel map: those with the same taps together,
// so that groups of 8 rows have few taps between them. Nothing waits for the device.
//
//   rank the taps by their number of pairs, the rarest first
//   key of a row: its taps, the rarest in the highest bit, as a number of the Gray code's sequence,
//   in which neighbours differ by few taps; before that the block of rows it belongs to
//   sort by key, stable
//
// Rows move inside blocks only: rows that lie close stay close, and the features they read are read
// from the cache. Tables of more than 32 taps keep their order. Memory: 24 bytes a row and what
// sorting needs.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "kernels/passes.h"

namespace tsl {

/// The bit of each tap in the keys.
struct RankTaps {
  const int64_t* tap_ptr;  // (kernel_volume + 1,)
  int kernel_volume;
  int32_t* bit;  // (kernel_volume,)

  TSL_HOST_DEVICE int64_t pairs(int64_t tap) const { return tap_ptr[tap + 1] - tap_ptr[tap]; }

  TSL_HOST_DEVICE void operator()(int64_t tap) const {
    int rarer = 0;
    for (int other = 0; other < kernel_volume; ++other) {
      const bool is_tie = pairs(other) == pairs(tap);
      rarer += pairs(other) < pairs(tap) || (is_tie && other < tap) ? 1 : 0;
    }
    bit[tap] = kernel_volume - 1 - rarer;
  }
};

/// Where a code stands in the sequence of the Gray code.
TSL_HOST_DEVICE uint32_t gray_rank(uint32_t code) {
  for (int shift = 1; shift < kMaskBits; shift *= 2) code ^= code >> shift;
  return code;
}

struct RowKeys {
  NeighborTable table;
  const int32_t* bit;
  int64_t block_rows;
  uint64_t* keys;
  int32_t* rows;

  TSL_HOST_DEVICE void operator()(int64_t row) const {
    uint32_t code = 0;
    for (uint32_t taps = table.mask[row]; taps; taps &= taps - 1)
      code |= 1u << bit[lowest_bit(taps)];
    keys[row] = static_cast<uint64_t>(row / block_rows) << kMaskBits | gray_rank(code);
    rows[row] = static_cast<int32_t>(row);
  }
};

/// to[i] = from[i], or i without `from`.
struct WriteRows {
  const int32_t* from;
  int32_t* to;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    to[i] = from ? from[i] : static_cast<int32_t>(i);
  }
};

/// order (num_out,).
template <class Executor>
void order_rows(Executor& executor, const NeighborTable& table, const int64_t* tap_ptr,
                int kernel_volume, int64_t num_out, int64_t block_rows, int32_t* order) {
  if (table.words > 1) return executor.for_each(num_out, WriteRows{nullptr, order});
  const auto [bit, rows, spare_rows, keys, spare_keys] =
      scratch<int32_t, int32_t, int32_t, uint64_t, uint64_t>(
          executor, {kernel_volume, num_out, num_out, num_out, num_out});
  int bits = kMaskBits;
  while (num_out > block_rows << (bits - kMaskBits)) ++bits;
  executor.for_each(kernel_volume, RankTaps{tap_ptr, kernel_volume, bit});
  executor.for_each(num_out, RowKeys{table, bit, block_rows, keys, rows});
  const auto sorted = executor.sort_pairs(keys, spare_keys, rows, spare_rows, num_out, bits);
  executor.for_each(num_out, WriteRows{sorted.values, order});
}

}  // namespace tsl
