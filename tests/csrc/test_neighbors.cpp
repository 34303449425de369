// SPDX-License-Identifier: MIT
// Neighbour tables: hash search, inverse search and octree descent against brute force over
// std::map, and what is derived from a table.
#include "cpu/neighbors.h"

#include <algorithm>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "core/descent.h"
#include "cpu/coords.h"
#include "maps.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3};

/// Runs one of the three searches.
template <class Search>
OwnedTable found_by(const Search& search, int64_t num_out, int kernel_volume, int threads) {
  OwnedTable table(num_out, kernel_volume);
  const cpu::RowBlocks blocks = search.run(table.mask.data(), table.ptr.data(), threads);
  table.rows.resize(static_cast<size_t>(table.ptr.back()), -9);
  cpu::join(blocks, table.rows.data(), threads);
  return table;
}

void check_same(const OwnedTable& a, const OwnedTable& b) {
  CHECK_EQ(a.ptr, b.ptr);
  CHECK_EQ(a.mask, b.mask);
  CHECK_EQ(a.rows, b.rows);
}

/// Both directions of search between two sets of sites against brute force.
void check_searches(const Coords& coarse, const Coords& fine, const ConvGeometry& g) {
  const std::vector<Pair> pairs = brute_force_pairs(coarse, fine, g);
  const int volume = g.kernel_volume();
  const OwnedTable expected = table_of(pairs, size_of(coarse), volume);
  const OwnedTable inverse = table_of(reversed(pairs), size_of(fine), volume);
  const OwnedHashTable fine_table(fine);
  const OwnedHashTable coarse_table(coarse);
  for (const int threads : kThreadCounts) {
    const cpu::HashSearch search{coarse.data(), size_of(coarse), fine_table.view, g};
    check_same(found_by(search, size_of(coarse), volume, threads), expected);
    const cpu::InverseSearch backwards{fine.data(), size_of(fine), coarse_table.view, g};
    check_same(found_by(backwards, size_of(fine), volume, threads), inverse);
  }
}

Coords half_resolution(const Coords& coords) {
  Coords cells;
  for (const Coord& c : coords) cells.push_back(Coord{c.batch, c.x >> 1, c.y >> 1, c.z >> 1});
  return without_duplicates(cells);
}

std::vector<ConvGeometry> geometries() {
  return {cubic(1, 1, 1, 0),
          cubic(3, 1, 1, 1),
          cubic(3, 1, 3, 3),
          cubic(2, 1, 1, 0),
          cubic(5, 1, 1, 2),
          ConvGeometry{{3, 1, 5}, {1, 1, 1}, {1, 2, 1}, {1, 0, 2}},
          ConvGeometry{{4, 4, 2}, {1, 1, 1}, {1, 1, 1}, {1, 1, 0}}};
}

std::vector<ConvGeometry> strided_geometries() {
  return {cubic(2, 2, 1, 0), cubic(3, 2, 1, 1),
          cubic(1, 2, 1, 0), cubic(4, 3, 2, 2),
          cubic(5, 2, 1, 2), ConvGeometry{{3, 1, 2}, {2, 1, 3}, {1, 1, 2}, {1, 0, 1}}};
}

TEST(submanifold_searches_find_what_brute_force_finds) {
  for (const NamedCloud& cloud : small_clouds()) {
    for (const ConvGeometry& g : geometries()) {
      const check::Note note(cloud.name, ", ", g);
      check_searches(cloud.coords, cloud.coords, g);
    }
  }
}

TEST(strided_searches_find_what_brute_force_finds) {
  for (const NamedCloud& cloud : small_clouds()) {
    const Coords coarse = half_resolution(cloud.coords);
    for (const ConvGeometry& g : strided_geometries()) {
      const check::Note note(cloud.name, ", ", g);
      check_searches(coarse, cloud.coords, g);
    }
  }
}

TEST(searches_between_unrelated_sets_and_against_nothing) {
  const Coords some = random_box(51, 300, 5, 2);
  const Coords others = random_box(52, 200, 5, 2);
  for (const ConvGeometry& g : {cubic(3, 1, 1, 1), cubic(3, 2, 1, 1)}) {
    check_searches(some, others, g);
    check_searches(some, {}, g);
    check_searches({}, some, g);
  }
}

TEST(random_geometries_on_random_clouds) {
  Random random(59);
  const auto number = [&](int64_t low, int64_t high) { return random.axis(low, high); };
  for (uint64_t repeat = 0; repeat < 150; ++repeat) {
    ConvGeometry g{};
    for (int axis = 0; axis < 3; ++axis) {
      g.kernel_size[axis] = number(1, 5);
      g.stride[axis] = number(1, 4);
      g.dilation[axis] = number(1, 3);
      g.padding[axis] = number(0, 6);
    }
    const Coords fine = random_box(60 + repeat, number(1, 300), number(1, 12), number(1, 3));
    const Coords coarse = random_box(600 + repeat, number(1, 200), number(1, 8), number(1, 3));
    const check::Note note("repeat ", repeat, ", ", g);
    check_searches(coarse, fine, g);
  }
}

TEST(kernels_that_leave_the_range_see_no_site_of_another_row) {
  // Were keys added without a check, the steps would carry into the next axis or batch.
  Coords coords = range_corners();
  for (const int32_t batch : {0, 1, 2, kBatchMax - 1}) {
    for (const int32_t x : {kAxisMin, -1, 0, 1, kAxisMax}) {
      for (const int32_t z : {kAxisMin, kAxisMin + 1, 0, kAxisMax}) {
        coords.push_back(Coord{batch, x, kAxisMin, z});
        coords.push_back(Coord{batch, x, kAxisMax, z});
      }
    }
  }
  coords = without_duplicates(coords);
  const ConvGeometry far_reaching[] = {cubic(3, 1, 1, 1),       cubic(3, 1, 131071, 131071),
                                       cubic(2, 1, 262143, 0),  cubic(3, 1, 1 << 18, 1 << 18),
                                       cubic(2, 1 << 17, 1, 0), cubic(2, 1 << 18, 1, 0)};
  for (const ConvGeometry& g : far_reaching) {
    const check::Note note(g);
    check_searches(coords, coords, g);
  }
}

TEST(threads_find_the_same_in_a_large_cloud) {
  Coords coords = lidar_surface(53, 40, 500, 0.4, 2);
  Random(54).shuffle(coords);
  CHECK(size_of(coords) > 8192);
  check_searches(coords, coords, cubic(3, 1, 1, 1));
  check_searches(half_resolution(coords), coords, cubic(2, 2, 1, 0));
}

TEST(block_words_are_cells_around_a_parent) {
  // One random set of cells around the parent at the origin, its children at (0..1)^3.
  Random random(55);
  for (int repeat = 0; repeat < 200; ++repeat) {
    bool occupied[6][6][6];  // child cells -2..3 per axis
    for (int i = 0; i < 216; ++i) occupied[i / 36][i / 6 % 6][i % 6] = random.integer(0, 3) == 0;
    uint64_t block = 0;
    for (int tap = 0; tap < kDescentTaps; ++tap) {
      const int base[3] = {2 * (tap / 9), 2 * (tap / 3 % 3), 2 * (tap % 3)};
      uint32_t children = 0;
      for (int child = 0; child < 8; ++child) {
        const bool is_there =
            occupied[base[0] + (child >> 2)][base[1] + (child >> 1 & 1)][base[2] + (child & 1)];
        children |= static_cast<uint32_t>(is_there) << child;
      }
      block |= block_part(tap).place(block_from_children(children));
    }
    for (int octant = 0; octant < 8; ++octant) {
      uint32_t expected = 0;
      for (int tap = 0; tap < kDescentTaps; ++tap) {
        const int x = 1 + (octant >> 2) + tap / 9;
        const int y = 1 + (octant >> 1 & 1) + tap / 3 % 3;
        const int z = 1 + (octant & 1) + tap % 3;
        expected |= static_cast<uint32_t>(occupied[x][y][z]) << tap;
        const BlockCell cell = block_cell(octant, tap);
        CHECK_EQ(cell.cell_tap, x / 2 * 9 + y / 2 * 3 + z / 2);
        CHECK_EQ(cell.octants_before, (1u << (x % 2 * 4 + y % 2 * 2 + z % 2)) - 1u);
      }
      CHECK_EQ(taps_from_window(block >> window_shift(octant)), expected);
    }
  }
}

/// Descends from the top of the pyramid, where a cell per batch and octant of space is left.
void check_descent(const Coords& sorted) {
  const ConvGeometry g = cubic(3, 1, 1, 1);
  std::vector<Coords> levels{sorted};
  while (levels.size() < 19) {
    Coords cells;
    for (const Coord& c : levels.back()) {
      const Coord cell{c.batch, c.x >> 1, c.y >> 1, c.z >> 1};
      if (cells.empty() || !(cells.back() == cell)) cells.push_back(cell);
    }
    levels.push_back(cells);
  }
  const auto brute_force = [&](const Coords& coords) {
    return table_of(brute_force_pairs(coords, coords, g), size_of(coords), kDescentTaps);
  };
  OwnedTable above = brute_force(levels.back());
  for (size_t level = levels.size() - 1; level-- > 0;) {
    const check::Note note("level ", level);
    const Coords& coords = levels[level];
    const cpu::Coarsened coarsened = cpu::coarsen(coords.data(), size_of(coords), 1);
    const cpu::Descent descent{above.view(), coarsened.child_ptr.data(),
                               coarsened.child_mask.data(), size_of(levels[level + 1])};
    const OwnedTable expected = brute_force(coords);
    for (const int threads : kThreadCounts) {
      check_same(found_by(descent, size_of(coords), kDescentTaps, threads), expected);
    }
    above = expected;
  }
}

TEST(descent_finds_what_brute_force_finds_on_every_level) {
  for (const NamedCloud& cloud : small_clouds()) {
    const check::Note note(cloud.name);
    check_descent(morton_sorted(cloud.coords));
  }
  check_descent(morton_sorted(lidar_surface(56, 32, 500, 0.2)));
}

TEST(visits_follow_the_mask) {
  const Coords coords = dense_cube(6, -3);
  const ConvGeometry g = cubic(5, 1, 1, 2);
  const std::vector<Pair> pairs = brute_force_pairs(coords, coords, g);
  const OwnedTable table = table_of(pairs, size_of(coords), g.kernel_volume());
  CHECK_EQ(table.words, 4);
  std::vector<Pair> visited;
  for (int32_t row = 0; row < static_cast<int32_t>(coords.size()); ++row) {
    table.view().for_each(row, [&](int tap, int32_t in) { visited.push_back(Pair{tap, in, row}); });
  }
  CHECK_EQ(visited, sorted(pairs, row_major));
  CHECK_EQ(mask_words(1), 1);
  CHECK_EQ(mask_words(32), 1);
  CHECK_EQ(mask_words(33), 2);
}

struct Lists {
  std::vector<int32_t> in, out;
  std::vector<int64_t> tap_ptr;
};

void check_lists(const std::vector<Pair>& pairs, int64_t num_in, int64_t num_out, int volume) {
  const OwnedTable table = table_of(pairs, num_out, volume);
  const OwnedPairs expected = pairs_of(pairs, num_out, volume, 64);
  const OwnedPairs transposed = pairs_of(reversed(pairs), num_in, volume, 64);
  for (const int threads : kThreadCounts) {
    Lists lists{std::vector<int32_t>(pairs.size(), -1), std::vector<int32_t>(pairs.size(), -1),
                std::vector<int64_t>(static_cast<size_t>(volume) + 1, -1)};
    cpu::pairs_by_tap(table.view(), num_out, volume, lists.tap_ptr.data(), lists.in.data(),
                      lists.out.data(), threads);
    CHECK_EQ(lists.tap_ptr, expected.tap_ptr);
    CHECK_EQ(lists.in, expected.in_index);
    CHECK_EQ(lists.out, expected.out_index);
    Lists back(lists);
    cpu::transpose_pairs(lists.in.data(), lists.out.data(), lists.tap_ptr.data(), volume, num_in,
                         back.in.data(), back.out.data(), threads);
    CHECK_EQ(back.in, transposed.in_index);
    CHECK_EQ(back.out, transposed.out_index);
    for (const int64_t tile_rows :
         {int64_t{1}, int64_t{7}, int64_t{64}, std::max<int64_t>(num_out, 1)}) {
      const OwnedPairs tiled = pairs_of(pairs, num_out, volume, tile_rows);
      std::vector<int64_t> tile_ptr(tiled.tile_ptr.size(), -1);
      cpu::tile_pairs(lists.out.data(), lists.tap_ptr.data(), volume, tile_rows,
                      tiled.tiles().num_tiles(), tile_ptr.data(), threads);
      CHECK_EQ(tile_ptr, tiled.tile_ptr);
    }
  }
}

TEST(pair_lists_are_sorted_transposed_and_tiled) {
  for (const NamedCloud& cloud : small_clouds()) {
    const Coords coarse = half_resolution(cloud.coords);
    for (const ConvGeometry& g : {cubic(3, 1, 1, 1), cubic(2, 2, 1, 0), cubic(4, 3, 2, 2)}) {
      const check::Note note(cloud.name, ", ", g);
      const Coords& out = g.stride[0] == 1 ? cloud.coords : coarse;
      const std::vector<Pair> pairs = brute_force_pairs(out, cloud.coords, g);
      check_lists(pairs, size_of(cloud.coords), size_of(out), g.kernel_volume());
    }
  }
}

TEST(threads_list_the_same_pairs_of_a_large_cloud) {
  Coords coords = lidar_surface(57, 40, 500, 0.4, 2);
  Random(58).shuffle(coords);
  const ConvGeometry g = cubic(3, 1, 1, 1);
  const std::vector<Pair> pairs = brute_force_pairs(coords, coords, g);
  const OwnedTable table = table_of(pairs, size_of(coords), kDescentTaps);
  const OwnedPairs expected = pairs_of(pairs, size_of(coords), kDescentTaps, 1024);
  for (const int threads : kThreadCounts) {
    Lists lists{std::vector<int32_t>(pairs.size(), -1), std::vector<int32_t>(pairs.size(), -1),
                std::vector<int64_t>(kDescentTaps + 1, -1)};
    cpu::pairs_by_tap(table.view(), size_of(coords), kDescentTaps, lists.tap_ptr.data(),
                      lists.in.data(), lists.out.data(), threads);
    CHECK_EQ(lists.in, expected.in_index);
    CHECK_EQ(lists.out, expected.out_index);
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
