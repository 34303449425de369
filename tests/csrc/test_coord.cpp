// SPDX-License-Identifier: MIT
// Keys of coordinates: ranges, uniqueness, order, and the bit arithmetic underneath.
#include "core/coord.h"

#include <limits>
#include <set>
#include <tuple>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "core/bits.h"
#include "core/hash_table.h"

namespace tsl::test {
namespace {

constexpr uint64_t kAxisCells = uint64_t{1} << kAxisBits;

Coords sample_coords(uint64_t seed, int count) {
  Random random(seed);
  Coords coords = range_corners();
  const auto axis = [&] { return random.axis(kAxisMin, kAxisMax); };
  for (int i = 0; i < count; ++i) {
    const int32_t batch = random.axis(0, kBatchMax);
    const int32_t x = axis();
    const int32_t y = axis();
    coords.push_back(Coord{batch, x, y, axis()});
  }
  const Coords near = random_box(seed + 1, count, 5, 2);
  coords.insert(coords.end(), near.begin(), near.end());
  return without_duplicates(coords);
}

uint64_t spread_by_loop(uint64_t v) {
  uint64_t spread = 0;
  for (int bit = 0; bit < kAxisBits; ++bit) spread |= (v >> bit & 1) << (3 * bit);
  return spread;
}

std::tuple<int32_t, int32_t, int32_t, int32_t> tuple_of(const Coord& c) {
  return {c.batch, c.x, c.y, c.z};
}

TEST(the_range_has_the_stated_borders) {
  CHECK_EQ(kAxisMin, -131072);
  CHECK_EQ(kAxisMax, 131071);
  CHECK_EQ(kBatchMax, 1023);
  for (const int64_t inside : {-131072, -131071, -1, 0, 1, 131070, 131071}) {
    CHECK(axis_in_range(inside));
  }
  const int64_t limits[] = {std::numeric_limits<int64_t>::min(),
                            std::numeric_limits<int64_t>::max(),
                            int64_t{1} << 32,  // zero in the low word
                            -131073, 131072};
  for (const int64_t outside : limits) CHECK(!axis_in_range(outside));
  CHECK(in_range(Coord{0, kAxisMin, kAxisMin, kAxisMin}));
  CHECK(in_range(Coord{1023, kAxisMax, kAxisMax, kAxisMax}));
  CHECK(!in_range(Coord{-1, 0, 0, 0}));
  CHECK(!in_range(Coord{1024, 0, 0, 0}));
  for (const int32_t outside : {-131073, 131072, std::numeric_limits<int32_t>::min(),
                                std::numeric_limits<int32_t>::max()}) {
    CHECK(!in_range(Coord{0, outside, 0, 0}));
    CHECK(!in_range(Coord{0, 0, outside, 0}));
    CHECK(!in_range(Coord{0, 0, 0, outside}));
  }
}

TEST(coords_are_equal_in_all_four_numbers) {
  const Coord c{1, 2, 3, 4};
  CHECK(c == (Coord{1, 2, 3, 4}));
  CHECK(!(c == Coord{0, 2, 3, 4}) && !(c == Coord{1, 0, 3, 4}));
  CHECK(!(c == Coord{1, 2, 0, 4}) && !(c == Coord{1, 2, 3, 0}));
}

TEST(packed_keys_are_mixed_radix_numbers) {
  for (const Coord& c : sample_coords(11, 2000)) {
    uint64_t key = static_cast<uint64_t>(c.batch);
    for (const int32_t axis : {c.x, c.y, c.z}) {
      key = key * kAxisCells + static_cast<uint64_t>(axis + 131072);
    }
    CHECK_EQ(packed_key(c), key);
  }
  CHECK_EQ(packed_key(Coord{0, kAxisMin, kAxisMin, kAxisMin}), uint64_t{0});
  CHECK_EQ(packed_key(Coord{kBatchMax, kAxisMax, kAxisMax, kAxisMax}), kEmptyKey);
}

TEST(packed_keys_are_unique_and_ascend_with_batch_x_y_z) {
  Coords coords = sample_coords(12, 2000);
  std::sort(coords.begin(), coords.end(),
            [](const Coord& a, const Coord& b) { return tuple_of(a) < tuple_of(b); });
  for (size_t i = 1; i < coords.size(); ++i) {
    CHECK(packed_key(coords[i - 1]) < packed_key(coords[i]));
  }
}

TEST(a_step_moves_a_packed_key_between_any_two_sites) {
  Random random(13);
  const Coords coords = sample_coords(13, 500);
  for (const Coord& from : coords) {
    const Coord& to = at(coords, random.integer(0, size_of(coords) - 1));
    const uint64_t step =
        packed_key_step(int64_t{to.x} - from.x, int64_t{to.y} - from.y, int64_t{to.z} - from.z);
    CHECK_EQ(packed_key(from) + step, packed_key(Coord{from.batch, to.x, to.y, to.z}));
  }
}

TEST(bits_are_spread_to_every_third_place_and_gathered_again) {
  for (uint64_t v = 0; v < kAxisCells; ++v) {
    const uint64_t spread = spread_bits(v);
    if (spread != spread_by_loop(v)) CHECK_EQ(spread, spread_by_loop(v));
    if (gather_bits(spread) != v) CHECK_EQ(gather_bits(spread), v);
  }
}

TEST(gather_bits_does_not_see_the_other_places) {
  Random random(14);
  constexpr uint64_t kEveryThird = 0x1249249249249249ULL;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t noise = random.bits();
    CHECK_EQ(gather_bits(noise), gather_bits(noise & kEveryThird));
  }
}

TEST(morton_keys_interleave_x_y_z) {
  for (const Coord& c : sample_coords(15, 2000)) {
    const auto spread = [](int32_t axis) {
      return spread_by_loop(static_cast<uint64_t>(axis + 131072));
    };
    const uint64_t key =
        static_cast<uint64_t>(c.batch) << 54 | spread(c.x) << 2 | spread(c.y) << 1 | spread(c.z);
    CHECK_EQ(morton_key(c), key);
    CHECK_EQ(coord_from_morton(key), c);
  }
  CHECK_EQ(morton_key(Coord{0, kAxisMin, kAxisMin, kAxisMin}), uint64_t{0});
  CHECK_EQ(morton_key(Coord{kBatchMax, kAxisMax, kAxisMax, kAxisMax}), ~uint64_t{0});
}

TEST(morton_order_is_that_of_the_highest_differing_bit) {
  const Coords coords = morton_sorted(sample_coords(16, 2000));
  for (size_t i = 1; i < coords.size(); ++i) {
    CHECK(morton_key(coords[i - 1]) < morton_key(coords[i]));
  }
}

TEST(the_children_of_a_cell_are_eight_consecutive_morton_keys) {
  Random random(17);
  const auto axis = [&] { return random.axis(kAxisMin / 2, kAxisMax / 2); };
  for (int i = 0; i < 500; ++i) {
    const Coord cell{random.axis(0, kBatchMax), axis(), axis(), axis()};
    const uint64_t first = morton_key(Coord{cell.batch, 2 * cell.x, 2 * cell.y, 2 * cell.z});
    CHECK_EQ(first % 8, uint64_t{0});
    for (int child = 0; child < 8; ++child) {
      const Coord c{cell.batch, 2 * cell.x + (child >> 2), 2 * cell.y + (child >> 1 & 1),
                    2 * cell.z + (child & 1)};
      CHECK_EQ(morton_key(c), first + static_cast<uint64_t>(child));
    }
  }
}

TEST(floor_div_rounds_towards_minus_infinity) {
  for (int64_t divisor = 1; divisor <= 17; ++divisor) {
    for (int64_t value = -200; value <= 200; ++value) {
      const double quotient = static_cast<double>(value) / static_cast<double>(divisor);
      CHECK_EQ(floor_div(value, divisor), static_cast<int64_t>(std::floor(quotient)));
    }
  }
  Random random(18);
  for (int i = 0; i < 1000; ++i) {
    const int64_t value = static_cast<int64_t>(random.bits()) / 2;
    const int64_t divisor = random.integer(1, int64_t{1} << 40);
    const int64_t remainder = value - floor_div(value, divisor) * divisor;
    CHECK(remainder >= 0 && remainder < divisor);
  }
}

TEST(bits_are_counted_and_found) {
  Random random(19);
  for (int i = 0; i < 1000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random.bits()) | 1u << random.integer(0, 31);
    int count = 0;
    int lowest = 32;
    for (int bit = 31; bit >= 0; --bit) {
      if (bits >> bit & 1u) {
        ++count;
        lowest = bit;
      }
    }
    CHECK_EQ(count_bits(bits), count);
    CHECK_EQ(lowest_bit(bits), lowest);
  }
  CHECK_EQ(count_bits(0u), 0);
  CHECK_EQ(count_bits(~0u), 32);
  CHECK_EQ(lowest_bit(1u << 31), 31);
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
