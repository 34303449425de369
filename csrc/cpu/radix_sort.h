// SPDX-License-Identifier: MIT
// Stable least-significant-digit radix sort of records by an unsigned key, one counting pass a
// digit.
//
// Each pass counts digits per block of consecutive records, turns the counts into write positions
// (digit by digit, block by block, which keeps it stable), and moves the records. The result does
// not depend on the number of blocks. Memory: one more buffer of records.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/parallel.h"

namespace tsl::cpu {

// 4,096 write positions fill a first-level cache of 32 KB. The 36 bits of a street scan at 5 cm
// take three passes so; four of 9 bits are slower by an eighth.
constexpr int kMaxDigitBits = 12;

/// Sorts `records` by the low `key_bits` bits of key(record); `scratch` has the same size.
template <class Record, class Key>
void radix_sort(std::vector<Record>& records, std::vector<Record>& scratch, int key_bits,
                int threads, const Key& key) {
  const int passes = (key_bits + kMaxDigitBits - 1) / kMaxDigitBits;
  const int digit_bits = passes == 0 ? 0 : (key_bits + passes - 1) / passes;
  const uint64_t digits = uint64_t{1} << digit_bits;
  const Blocks blocks(static_cast<int64_t>(records.size()), kMinBlock, threads);
  std::vector<int64_t> position(static_cast<size_t>(blocks.blocks) * digits);

  for (int pass = 0; pass < passes; ++pass) {
    const int shift = pass * digit_bits;
    const auto digit = [&](const Record& record) { return (key(record) >> shift) & (digits - 1); };
    std::fill(position.begin(), position.end(), 0);
    parallel_blocks(blocks, [&](int64_t block) {
      int64_t* const count = position.data() + static_cast<uint64_t>(block) * digits;
      for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
        ++count[digit(records[static_cast<size_t>(i)])];
      }
    });
    int64_t next = 0;
    for (uint64_t d = 0; d < digits; ++d) {
      for (int64_t block = 0; block < blocks.blocks; ++block) {
        next += std::exchange(position[static_cast<uint64_t>(block) * digits + d], next);
      }
    }
    parallel_blocks(blocks, [&](int64_t block) {
      int64_t* const write = position.data() + static_cast<uint64_t>(block) * digits;
      for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
        const Record& record = records[static_cast<size_t>(i)];
        scratch[static_cast<size_t>(write[digit(record)]++)] = record;
      }
    });
    records.swap(scratch);
  }
}

}  // namespace tsl::cpu
