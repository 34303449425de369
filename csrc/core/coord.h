// SPDX-License-Identifier: MIT
// A voxel coordinate and its two 64-bit keys.
//
// Both keys hold batch (10 bits) and three axes (18 bits each, biased by 2^17), so they are unique
// over the whole legal range and use every bit of the word:
//
//   packed key  batch | x | y | z             neighbours differ by a constant; for the hash table
//   Morton key  batch | interleaved x, y, z   children of a cell are contiguous; for the row order
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace tsl {

struct Coord {
  int32_t batch, x, y, z;
};

constexpr int kAxisBits = 18;
constexpr int kBatchBits = 10;
constexpr int32_t kAxisBias = int32_t{1} << (kAxisBits - 1);
constexpr int32_t kAxisMin = -kAxisBias;
constexpr int32_t kAxisMax = kAxisBias - 1;
constexpr int32_t kBatchMax = (1 << kBatchBits) - 1;
constexpr int32_t kDeadBatch = -1;
constexpr int kPackedShiftX = 2 * kAxisBits;
constexpr int kPackedShiftY = kAxisBits;
constexpr int kBatchShift = 3 * kAxisBits;

/// A dead row is room behind the live rows of an array. It has no key, nobody is its neighbour, and
/// it is in no cell and no group.
TSL_HOST_DEVICE bool is_dead(const Coord& c) { return c.batch == kDeadBatch; }
TSL_HOST_DEVICE Coord dead_coord() { return {kDeadBatch, -1, -1, -1}; }

TSL_HOST_DEVICE bool axis_in_range(int64_t value) { return value >= kAxisMin && value <= kAxisMax; }

TSL_HOST_DEVICE bool in_range(const Coord& c) {
  return c.batch >= 0 && c.batch <= kBatchMax && axis_in_range(c.x) && axis_in_range(c.y) &&
         axis_in_range(c.z);
}

TSL_HOST_DEVICE bool operator==(const Coord& a, const Coord& b) {
  return a.batch == b.batch && a.x == b.x && a.y == b.y && a.z == b.z;
}

TSL_HOST_DEVICE uint64_t biased(int32_t axis) {
  return static_cast<uint64_t>(static_cast<uint32_t>(axis + kAxisBias));
}

/// Coord must be in range.
TSL_HOST_DEVICE uint64_t packed_key(const Coord& c) {
  return (static_cast<uint64_t>(c.batch) << kBatchShift) | (biased(c.x) << kPackedShiftX) |
         (biased(c.y) << kPackedShiftY) | biased(c.z);
}

/// What to add (modulo 2^64) to a packed key to move by (x, y, z); valid while no axis leaves its
/// range.
TSL_HOST_DEVICE uint64_t packed_key_step(int64_t x, int64_t y, int64_t z) {
  return (static_cast<uint64_t>(x) << kPackedShiftX) + (static_cast<uint64_t>(y) << kPackedShiftY) +
         static_cast<uint64_t>(z);
}

/// Bit i of the 18-bit argument goes to bit 3 i.
TSL_HOST_DEVICE uint64_t spread_bits(uint64_t v) {
  v = (v | (v << 32)) & 0x001f00000000ffffULL;
  v = (v | (v << 16)) & 0x001f0000ff0000ffULL;
  v = (v | (v << 8)) & 0x100f00f00f00f00fULL;
  v = (v | (v << 4)) & 0x10c30c30c30c30c3ULL;
  v = (v | (v << 2)) & 0x1249249249249249ULL;
  return v;
}

/// Inverse of spread_bits.
TSL_HOST_DEVICE uint64_t gather_bits(uint64_t v) {
  v &= 0x1249249249249249ULL;
  v = (v | (v >> 2)) & 0x10c30c30c30c30c3ULL;
  v = (v | (v >> 4)) & 0x100f00f00f00f00fULL;
  v = (v | (v >> 8)) & 0x001f0000ff0000ffULL;
  v = (v | (v >> 16)) & 0x001f00000000ffffULL;
  v = (v | (v >> 32)) & 0x000000000003ffffULL;
  return v;
}

TSL_HOST_DEVICE uint64_t morton_key(const Coord& c) {
  return (static_cast<uint64_t>(c.batch) << kBatchShift) | (spread_bits(biased(c.x)) << 2) |
         (spread_bits(biased(c.y)) << 1) | spread_bits(biased(c.z));
}

TSL_HOST_DEVICE Coord coord_from_morton(uint64_t key) {
  return Coord{static_cast<int32_t>(key >> kBatchShift),
               static_cast<int32_t>(gather_bits(key >> 2)) - kAxisBias,
               static_cast<int32_t>(gather_bits(key >> 1)) - kAxisBias,
               static_cast<int32_t>(gather_bits(key)) - kAxisBias};
}

/// Division rounding towards minus infinity; divisor > 0.
TSL_HOST_DEVICE int64_t floor_div(int64_t value, int64_t divisor) {
  const int64_t quotient = value / divisor;
  return quotient - (value % divisor < 0 ? 1 : 0);
}

}  // namespace tsl
