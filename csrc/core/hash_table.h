// SPDX-License-Identifier: MIT
// Open-addressing hash table from packed coordinate keys to rows, over buffers that the caller
// owns.
//
// Linear probing from splitmix64(key); the capacity is a power of two and at least twice the number
// of keys, so probes are short and always end: every loop is bounded by the capacity. Whole keys
// are compared, never hashes. The key that looks like "empty" is a legal coordinate (the last of
// all); it lives in one extra slot behind the table.
//
// Most lookups of a neighbour search miss. A filter of eight bits a slot, indexed by other bits of
// the same hash, turns away 9 misses of 10 and more with one read from a small array.
//
// Memory: 13 bytes a slot, 26 to 52 bytes a key.
#pragma once

#include <cstdint>

#include "core/atomic.h"
#include "core/macros.h"

namespace tsl {

constexpr uint64_t kEmptyKey = ~uint64_t{0};
constexpr int32_t kNoRow = -1;

constexpr uint64_t kSplitmixFirst = 0xbf58476d1ce4e5b9ULL;
constexpr uint64_t kSplitmixSecond = 0x94d049bb133111ebULL;

TSL_HOST_DEVICE uint64_t splitmix64(uint64_t v) {
  v ^= v >> 30;
  v *= kSplitmixFirst;
  v ^= v >> 27;
  v *= kSplitmixSecond;
  v ^= v >> 31;
  return v;
}

constexpr int kFilterBitsPerSlot = 8;
constexpr int kFilterShift = 24;  // the filter's index starts at this bit of the hash

struct HashTableView {
  uint64_t* keys;     // (capacity + 1,) filled with kEmptyKey before the first insert
  int32_t* rows;      // (capacity + 1,) filled with kNoRow
  uint32_t* filter;   // (capacity * kFilterBitsPerSlot / 32,) zeros
  uint64_t capacity;  // a power of two

  TSL_HOST_DEVICE int64_t filter_words() const {
    return static_cast<int64_t>(capacity) * kFilterBitsPerSlot / 32;
  }
  TSL_HOST_DEVICE uint64_t home(uint64_t hash) const { return hash & (capacity - 1); }
  TSL_HOST_DEVICE uint64_t filter_bit(uint64_t hash) const {
    return (hash >> kFilterShift) & (capacity * kFilterBitsPerSlot - 1);
  }

  /// Adds key -> row; of equal keys the smallest row stays, whatever the order of the calls.
  /// Safe from many threads at once. False when the table is full.
  TSL_HOST_DEVICE bool insert(uint64_t key, int32_t row) const {
    if (key == kEmptyKey) {
      atomic_min_row(rows + capacity, row);
      return true;
    }
    const uint64_t hash = splitmix64(key);
    const uint64_t bit = filter_bit(hash);
    atomic_or(filter + bit / 32, 1u << (bit % 32));
    uint64_t slot = home(hash);
    for (uint64_t probe = 0; probe < capacity; ++probe) {
      const uint64_t found = atomic_claim(keys + slot, kEmptyKey, key);
      if (found == kEmptyKey || found == key) {
        atomic_min_row(rows + slot, row);
        return true;
      }
      slot = (slot + 1) & (capacity - 1);
    }
    return false;
  }

  /// Row of the key, or kNoRow. Not to be mixed with concurrent inserts.
  TSL_HOST_DEVICE int32_t find(uint64_t key) const {
    if (key == kEmptyKey) return rows[capacity];
    return find_from(home(splitmix64(key)), key);
  }

  /// The same, asking the filter first.
  TSL_HOST_DEVICE int32_t find_filtered(uint64_t key) const {
    if (key == kEmptyKey) return rows[capacity];
    const uint64_t hash = splitmix64(key);
    const uint64_t bit = filter_bit(hash);
    if ((filter[bit / 32] >> (bit % 32) & 1u) == 0) return kNoRow;
    return find_from(home(hash), key);
  }

  /// The same for a key that is not kEmptyKey and whose home is known.
  TSL_HOST_DEVICE int32_t find_from(uint64_t slot, uint64_t key) const {
    for (uint64_t probe = 0; probe < capacity; ++probe) {
      if (keys[slot] == key) return rows[slot];
      if (keys[slot] == kEmptyKey) return kNoRow;
      slot = (slot + 1) & (capacity - 1);
    }
    return kNoRow;
  }
};

/// Smallest legal capacity for `count` keys: load at most one half.
TSL_HOST_DEVICE uint64_t hash_capacity(uint64_t count) {
  uint64_t capacity = 16;
  while (capacity < 2 * count) capacity *= 2;
  return capacity;
}

}  // namespace tsl
