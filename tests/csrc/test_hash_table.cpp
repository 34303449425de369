// SPDX-License-Identifier: MIT
// The hash table against std::map: duplicates, misses, the key that marks an empty slot, full
// tables, long probes, many threads, and the filter in every instruction set.
#include "core/hash_table.h"

#include <map>
#include <set>
#include <vector>

#include "capacity.h"
#include "check.h"
#include "clouds.h"
#include "cpu/parallel.h"
#include "kernels/hash_insert.h"
#include "kernels/hash_lookup.h"
#include "maps.h"

namespace tsl::test {
namespace {

using Rows = std::map<uint64_t, int32_t>;

/// Keys in no order, many of them more than once.
std::vector<uint64_t> repeated_keys(uint64_t seed, int count, int distinct) {
  Random random(seed);
  std::vector<uint64_t> pool{0, 1, kEmptyKey, kEmptyKey - 1};
  while (static_cast<int>(pool.size()) < distinct) pool.push_back(random.bits());
  std::vector<uint64_t> keys;
  for (int i = 0; i < count; ++i) keys.push_back(at(pool, random.integer(0, distinct - 1)));
  return keys;
}

Rows first_rows(const std::vector<uint64_t>& keys) {
  Rows rows;
  for (size_t i = 0; i < keys.size(); ++i) rows.emplace(keys[i], static_cast<int32_t>(i));
  return rows;
}

/// `count` keys whose probes all begin at `slot`.
std::vector<uint64_t> keys_with_home(const HashTableView& table, uint64_t slot, int count) {
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; static_cast<int>(keys.size()) < count; ++key) {
    if (table.home(splitmix64(key)) == slot) keys.push_back(key);
  }
  return keys;
}

TEST(splitmix64_is_the_published_one) {
  // The generator's first outputs from seed 0 (Vigna's splitmix64.c), by what it adds to its state.
  constexpr uint64_t kGamma = 0x9e3779b97f4a7c15ULL;
  CHECK_EQ(splitmix64(kGamma), uint64_t{0xe220a8397b1dcdafULL});
  CHECK_EQ(splitmix64(2 * kGamma), uint64_t{0x6e789e6aa1b965f4ULL});
  CHECK_EQ(splitmix64(3 * kGamma), uint64_t{0x06c45d188009454fULL});
}

TEST(the_capacity_is_the_smallest_power_of_two_at_half_load) {
  for (uint64_t count = 0; count < 5000; ++count) {
    const uint64_t capacity = hash_capacity(count);
    CHECK_EQ(capacity & (capacity - 1), uint64_t{0});
    CHECK(capacity >= 16 && capacity >= 2 * count);
    CHECK(capacity == 16 || capacity / 2 < 2 * count);
  }
  CHECK_EQ(hash_capacity(uint64_t{1} << 31), uint64_t{1} << 32);
}

TEST(an_empty_table_finds_nothing) {
  const OwnedHashTable table(Coords{});
  CHECK_EQ(table.view.capacity, uint64_t{16});
  for (const uint64_t key : repeated_keys(21, 100, 50)) CHECK_EQ(table.view.find(key), kNoRow);
}

TEST(the_smallest_row_stays_whatever_the_order) {
  const std::vector<uint64_t> keys = repeated_keys(22, 3000, 700);
  const Rows expected = first_rows(keys);
  std::vector<int32_t> order;
  for (int32_t i = 0; i < static_cast<int32_t>(keys.size()); ++i) order.push_back(i);
  for (uint64_t shuffle = 0; shuffle < 4; ++shuffle) {
    OwnedHashTable table(hash_capacity(keys.size()));
    for (const int32_t row : order) CHECK(table.view.insert(at(keys, row), row));
    for (const auto& [key, row] : expected) CHECK_EQ(table.view.find(key), row);
    Random random(23);
    for (int i = 0; i < 3000; ++i) {
      const uint64_t key = random.bits();
      if (!expected.count(key)) CHECK_EQ(table.view.find(key), kNoRow);
    }
    Random(24 + shuffle).shuffle(order);
  }
}

TEST(the_key_that_marks_an_empty_slot_is_a_key_like_others) {
  OwnedHashTable table(uint64_t{16});
  CHECK_EQ(table.view.find(kEmptyKey), kNoRow);
  CHECK(table.view.insert(5, 0));
  CHECK_EQ(table.view.find(kEmptyKey), kNoRow);
  CHECK(table.view.insert(kEmptyKey, 9));
  CHECK(table.view.insert(kEmptyKey, 4));
  CHECK(table.view.insert(kEmptyKey, 6));
  CHECK_EQ(table.view.find(kEmptyKey), 4);
  CHECK_EQ(table.view.find(5), 0);
  CHECK_EQ(table.keys.back(), kEmptyKey);
}

TEST(probes_run_over_the_end_of_the_table) {
  OwnedHashTable table(uint64_t{32});
  const std::vector<uint64_t> keys = keys_with_home(table.view, 30, 12);
  const std::vector<uint64_t> neighbors = keys_with_home(table.view, 0, 4);
  for (size_t i = 0; i < keys.size(); ++i)
    CHECK(table.view.insert(keys[i], static_cast<int32_t>(i)));
  for (const uint64_t key : neighbors) CHECK(table.view.insert(key, 100));
  for (size_t i = 0; i < keys.size(); ++i) {
    CHECK_EQ(table.view.find(keys[i]), static_cast<int32_t>(i));
    CHECK_EQ(table.view.find_from(30, keys[i]), static_cast<int32_t>(i));
  }
  for (const uint64_t key : neighbors) CHECK_EQ(table.view.find(key), 100);
  CHECK_EQ(table.view.find(keys_with_home(table.view, 30, 13).back()), kNoRow);
}

TEST(a_full_table_refuses_and_still_answers) {
  OwnedHashTable table(uint64_t{16});
  for (uint64_t key = 0; key < 16; ++key) CHECK(table.view.insert(key, static_cast<int32_t>(key)));
  CHECK(!table.view.insert(16, 16));
  CHECK_EQ(table.view.find(16), kNoRow);
  CHECK(table.view.insert(7, 70));
  CHECK(table.view.insert(7, 3));
  CHECK(table.view.insert(kEmptyKey, 1));
  CHECK_EQ(table.view.find(7), 3);
  for (uint64_t key = 8; key < 16; ++key) CHECK_EQ(table.view.find(key), static_cast<int32_t>(key));
}

TEST(threads_build_and_read_the_same_table) {
  Coords coords = lidar_surface(25, 32, 700, 0.2);
  const Coords corners = range_corners();
  coords.insert(coords.end(), corners.begin(), corners.end());
  const Coords copies(coords);
  coords.insert(coords.end(), copies.begin(), copies.end());
  coords.insert(coords.end(), copies.rbegin(), copies.rend());
  CHECK(size_of(coords) > 4 * cpu::kMinBlock);
  const std::map<Key, int32_t> expected = rows_by_coord(coords);
  for (const int threads : {1, 2, 3}) {
    const check::Note note(threads, " threads");
    const OwnedHashTable table(hash_capacity(static_cast<uint64_t>(coords.size())));
    cpu::for_each(size_of(coords), threads, HashInsert{coords.data(), table.view});
    std::vector<int64_t> found(coords.size(), -2);
    cpu::for_each(size_of(coords), threads, HashLookup{coords.data(), table.view, found.data()});
    for (size_t i = 0; i < coords.size(); ++i) {
      CHECK_EQ(found[i], int64_t{expected.at(key_of(coords[i]))});
    }
  }
}

TEST(lookups_out_of_range_are_misses) {
  // Without the check of the range these would fold onto keys that are in the table.
  const Coords inside{Coord{1, 0, 0, kAxisMin}, Coord{0, 0, 0, 0}, Coord{0, 1, 0, 0}};
  const Coords outside{Coord{0, kAxisMax + 1, 0, kAxisMin},
                       Coord{1024, 0, 0, 0},
                       Coord{-1, 0, 0, 0},
                       Coord{0, 0, kAxisMax + 1 + kAxisMin, kAxisMax + 1},
                       Coord{0, 0, kAxisMax + 1, 0},
                       Coord{0, 0, INT32_MIN, 0},
                       Coord{0, INT32_MAX, 0, 0}};
  const OwnedHashTable table(inside);
  std::vector<int64_t> found(outside.size(), -2);
  const HashLookup lookup{outside.data(), table.view, found.data()};
  for (int64_t i = 0; i < size_of(outside); ++i) lookup(i);
  CHECK_EQ(found, std::vector<int64_t>(outside.size(), kNoRow));
}

TEST(the_filter_passes_every_key_and_few_others_in_every_instruction_set) {
  const Coords coords = lidar_surface(26, 24, 250, 0.4);
  const OwnedHashTable table(coords);
  std::set<uint64_t> keys;
  for (const Coord& c : coords) keys.insert(packed_key(c));
  std::vector<uint64_t> steps(2 * kMaskBits, packed_key_step(1, 1, 1));
  for (size_t i = 0; i < 27; ++i) {
    const int64_t tap = static_cast<int64_t>(i);
    steps[i] = packed_key_step(tap / 9 - 1, tap / 3 % 3 - 1, tap % 3 - 1);
  }
  for (const cpu::SimdKernels* const kernels : all_simd_kernels()) {
    const check::Note note(kernels->name);
    int misses = 0;
    int passed_misses = 0;
    for (size_t row = 0; row < coords.size(); row += 3) {
      const int count = 1 + static_cast<int>(row) % kMaskBits;
      const uint64_t window = packed_key(coords[row]);
      cpu::Probes probes{};
      const uint32_t passed =
          kernels->filter_keys(table.view, window, steps.data(), count, &probes);
      CHECK_EQ(count < kMaskBits ? passed >> count : 0u, 0u);
      for (int i = 0; i < count; ++i) {
        const uint64_t key = window + at(steps, i);
        const uint64_t hash = splitmix64(key);
        CHECK_EQ(probes.keys[i], key);
        CHECK_EQ(probes.homes[i], hash % table.view.capacity);
        const uint64_t bit = table.view.filter_bit(hash);
        const bool is_set = table.filter[bit / 32] >> (bit % 32) & 1u;
        CHECK_EQ((passed >> i & 1u) != 0, is_set);
        if (keys.count(key)) {
          CHECK(is_set);
        } else {
          ++misses;
          passed_misses += is_set;
        }
      }
    }
    CHECK(misses > 1000 && passed_misses * 8 < misses);
  }
}

TEST(dead_rows_take_no_slot_of_a_hash_table) {
  for (const NamedCloud& cloud : small_clouds()) {
    const check::Note note(cloud.name);
    for (const int64_t dead : {0, 1, 33}) {
      const OwnedHashTable padded(with_dead_rows(cloud.coords, dead));
      OwnedHashTable expected(padded.view.capacity);
      const HashInsert insert{cloud.coords.data(), expected.view};
      for (int64_t i = 0; i < size_of(cloud.coords); ++i) insert(i);
      CHECK_EQ(padded.keys, expected.keys);
      CHECK_EQ(padded.rows, expected.rows);
      CHECK_EQ(padded.filter, expected.filter);
    }
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
