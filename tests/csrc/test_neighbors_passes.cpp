// SPDX-License-Identifier: MIT
// The passes over neighbour tables and pair lists that a GPU runs, on the CPU: each gives what the
// CPU's own operator gives, and waits as seldom as it says.
#include <string>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "cpu/coords.h"
#include "cpu/neighbors.h"
#include "executor.h"
#include "kernels/neighbors_descend.h"
#include "kernels/neighbors_search.h"
#include "kernels/pairs.h"
#include "maps.h"
#include "refusal.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 3};

/// What the CPU's own search finds.
template <class Search>
OwnedTable on_cpu(const Search& search, int64_t num_out, int kernel_volume) {
  OwnedTable table(num_out, kernel_volume);
  const cpu::RowBlocks blocks = search.run(table.mask.data(), table.ptr.data(), 1);
  table.rows.resize(static_cast<size_t>(table.ptr.back()), -9);
  cpu::join(blocks, table.rows.data(), 1);
  return table;
}

/// What passes(executor, arrays, allocate) find, against that.
template <class Passes>
void check_passes(const OwnedTable& expected, int kernel_volume, const Passes& passes) {
  for (const int threads : kThreadCounts) {
    OwnedTable table(size_of(expected.ptr) - 1, kernel_volume);
    Executor executor(threads);
    const auto allocate = [&](int64_t pairs, NeighborArrays* out) {
      table.rows.assign(static_cast<size_t>(pairs), -9);
      out->rows = table.rows.data();
    };
    passes(executor, NeighborArrays{table.mask.data(), table.ptr.data(), nullptr, table.words},
           allocate);
    CHECK_EQ(executor.waits(), 1);
    CHECK_EQ(table.ptr, expected.ptr);
    CHECK_EQ(table.mask, expected.mask);
    CHECK_EQ(table.rows, expected.rows);
  }
}

void check_searches(const Coords& coarse, const Coords& fine, const ConvGeometry& g) {
  const OwnedHashTable fine_table(fine);
  const OwnedHashTable coarse_table(coarse);
  const auto check_search = [&](const WindowSearch& search, const OwnedTable& expected) {
    check_passes(expected, g.kernel_volume(),
                 [&](Executor& executor, const NeighborArrays& out, const auto& allocate) {
                   neighbors_search(executor, search, size_of(expected.ptr) - 1, out, allocate);
                 });
  };
  const cpu::HashSearch search{coarse.data(), size_of(coarse), fine_table.view, g};
  check_search(WindowSearch{coarse.data(), fine_table.view, g, false},
               on_cpu(search, size_of(coarse), g.kernel_volume()));
  const cpu::InverseSearch inverse{fine.data(), size_of(fine), coarse_table.view, g};
  check_search(WindowSearch{fine.data(), coarse_table.view, g, true},
               on_cpu(inverse, size_of(fine), g.kernel_volume()));
}

Coords half_resolution(const Coords& coords) {
  Coords cells;
  for (const Coord& c : coords) cells.push_back(Coord{c.batch, c.x >> 1, c.y >> 1, c.z >> 1});
  return without_duplicates(cells);
}

std::vector<NamedCloud> clouds() {
  std::vector<NamedCloud> all = small_clouds();
  Coords large = lidar_surface(81, 32, 400, 0.3, 3);
  Random(82).shuffle(large);
  all.push_back({"large surface", large});
  return all;
}

std::vector<ConvGeometry> geometries() {
  return {cubic(1, 1, 1, 0),
          cubic(3, 1, 1, 1),
          cubic(2, 2, 1, 0),
          cubic(3, 2, 1, 1),
          cubic(4, 3, 2, 2),
          cubic(5, 1, 1, 2),
          ConvGeometry{{4, 4, 2}, {1, 1, 1}, {1, 1, 1}, {1, 1, 0}},
          ConvGeometry{{3, 1, 2}, {2, 1, 3}, {1, 1, 2}, {1, 0, 1}}};
}

TEST(searches_find_what_the_cpu_finds) {
  for (const NamedCloud& cloud : clouds()) {
    for (const ConvGeometry& g : geometries()) {
      const check::Note note(cloud.name, ", ", g);
      check_searches(g.stride[0] == 1 ? cloud.coords : half_resolution(cloud.coords), cloud.coords,
                     g);
    }
  }
}

TEST(searches_between_unrelated_sets_and_random_geometries) {
  Random random(83);
  const auto number = [&](int64_t low, int64_t high) { return random.axis(low, high); };
  for (uint64_t repeat = 0; repeat < 60; ++repeat) {
    ConvGeometry g{};
    for (int axis = 0; axis < 3; ++axis) {
      g.kernel_size[axis] = number(1, 5);
      g.stride[axis] = number(1, 4);
      g.dilation[axis] = number(1, 3);
      g.padding[axis] = number(0, 6);
    }
    const Coords fine = random_box(840 + repeat, number(0, 300), number(1, 12), number(1, 3));
    const Coords coarse = random_box(940 + repeat, number(0, 200), number(1, 8), number(1, 3));
    const check::Note note("repeat ", repeat, ", ", g);
    check_searches(coarse, fine, g);
  }
}

TEST(kernels_that_leave_the_range_see_no_site_of_another_row) {
  Coords coords = range_corners();
  for (const int32_t batch : {0, 1, kBatchMax - 1}) {
    for (const int32_t x : {kAxisMin, -1, 0, kAxisMax}) {
      coords.push_back(Coord{batch, x, kAxisMin, kAxisMin});
      coords.push_back(Coord{batch, x, kAxisMax, 0});
    }
  }
  coords = without_duplicates(coords);
  for (const ConvGeometry& g : {cubic(3, 1, 1, 1), cubic(3, 1, 131071, 131071),
                                cubic(2, 1, 262143, 0), cubic(2, 1 << 17, 1, 0)}) {
    const check::Note note(g);
    check_searches(coords, coords, g);
  }
}

/// A level of the pyramid and the neighbours of the one above.
struct Descended {
  OwnedTable above;
  cpu::Coarsened coarsened;

  Descended(const Coords& coords, const Coords& cells)
      : above(neighbors_of(cells)), coarsened(cpu::coarsen(coords.data(), size_of(coords), 1)) {}

  static OwnedTable neighbors_of(const Coords& cells) {
    const OwnedHashTable table(cells);
    const cpu::HashSearch search{cells.data(), size_of(cells), table.view, cubic(3, 1, 1, 1)};
    return on_cpu(search, size_of(cells), kDescentTaps);
  }

  DescentCells cells() const {
    return DescentCells{above.view(),
                        coarsened.child_ptr.data(),
                        coarsened.child_mask.data(),
                        size_of(coarsened.child_mask),
                        size_of(above.rows),
                        coarsened.child_ptr.back()};
  }
};

TEST(descent_finds_what_the_cpu_finds_on_every_level) {
  for (const NamedCloud& cloud : clouds()) {
    const check::Note note(cloud.name);
    Coords level = morton_sorted(cloud.coords);
    for (int step = 0; step < kAxisBits; ++step) {
      const Coords coarse = half_resolution(level);
      const Descended descended(level, coarse);
      const cpu::Descent descent{descended.above.view(), descended.coarsened.child_ptr.data(),
                                 descended.coarsened.child_mask.data(), size_of(coarse)};
      check_passes(on_cpu(descent, size_of(level), kDescentTaps), kDescentTaps,
                   [&](Executor& executor, const NeighborArrays& out, const auto& allocate) {
                     neighbors_descend(executor, descended.cells(), out, allocate);
                   });
      level = coarse;
    }
  }
}

TEST(descent_refuses_what_does_not_fit) {
  const Coords coords = morton_sorted(lidar_surface(85, 16, 100, 0.3));
  const Coords coarse = half_resolution(coords);
  const auto run = [&](const auto& spoil) {
    Descended descended(coords, coarse);
    spoil(descended);
    OwnedTable table(size_of(coords), kDescentTaps);
    DescentCells cells = descended.cells();
    cells.num_children = size_of(coords);
    const auto allocate = [&](int64_t pairs, NeighborArrays* out) {
      table.rows.resize(static_cast<size_t>(pairs));
      out->rows = table.rows.data();
    };
    return refusal([&] {
      Executor executor(1);
      neighbors_descend(executor, cells,
                        NeighborArrays{table.mask.data(), table.ptr.data(), nullptr, 1}, allocate);
    });
  };
  CHECK_EQ(run([](Descended&) {}), std::string());
  CHECK(says(run([](Descended& d) { d.above.rows[3] = 1'000'000; }), "rows must be rows"));
  CHECK(says(run([](Descended& d) { d.above.rows[0] = -1; }), "rows must be rows"));
  CHECK(says(run([](Descended& d) { d.above.mask[2] = 0; }), "one bit per neighbour"));
  CHECK(says(run([](Descended& d) { d.above.mask[2] ^= 1u << 30; }), "one bit per neighbour"));
  CHECK(says(run([](Descended& d) { d.above.ptr[0] = -5; }), "ptr must ascend"));
  CHECK(says(run([](Descended& d) { d.above.ptr[4] = 1'000'000; }), "ptr must ascend"));
  CHECK(says(run([](Descended& d) { d.above.ptr.back() -= 1; }), "one bit per neighbour"));
  CHECK(says(run([](Descended& d) { d.coarsened.child_ptr[1] = -7; }), "count the bits"));
  CHECK(says(run([](Descended& d) { d.coarsened.child_ptr[0] = 1; }), "count the bits"));
  CHECK(says(run([](Descended& d) { d.coarsened.child_ptr.back() += 1; }), "count the bits"));
  CHECK(says(run([](Descended& d) { d.coarsened.child_mask[0] ^= 255; }), "count the bits"));
}

void check_lists(const std::vector<Pair>& pairs, int64_t num_in, int64_t num_out, int volume) {
  const OwnedTable table = table_of(pairs, num_out, volume);
  const OwnedPairs expected = pairs_of(pairs, num_out, volume, 64);
  std::vector<int32_t> back_in(pairs.size(), -9);
  std::vector<int32_t> back_out(pairs.size(), -9);
  cpu::transpose_pairs(expected.in_index.data(), expected.out_index.data(), expected.tap_ptr.data(),
                       volume, num_in, back_in.data(), back_out.data(), 1);
  const PairsView view{expected.in_index.data(), expected.out_index.data(), expected.tap_ptr.data(),
                       size_of(pairs), volume};
  for (const int threads : kThreadCounts) {
    Executor executor(threads);
    std::vector<int32_t> in(pairs.size(), -9);
    std::vector<int32_t> out(pairs.size(), -9);
    std::vector<int64_t> tap_ptr(static_cast<size_t>(volume) + 1, -9);
    pairs_by_tap(executor, table.view(), num_out, size_of(pairs), volume,
                 PairLists{in.data(), out.data(), tap_ptr.data()});
    CHECK_EQ(tap_ptr, expected.tap_ptr);
    CHECK_EQ(in, expected.in_index);
    CHECK_EQ(out, expected.out_index);
    transpose_pairs(executor, view, num_in, in.data(), out.data());
    CHECK_EQ(in, back_in);
    CHECK_EQ(out, back_out);
    for (const int64_t tile_rows : {int64_t{1}, int64_t{7}, std::max<int64_t>(num_out, 1)}) {
      const OwnedPairs tiled = pairs_of(pairs, num_out, volume, tile_rows);
      std::vector<int64_t> tile_ptr(tiled.tile_ptr.size(), -9);
      executor.for_each(size_of(tile_ptr), TilePairs{view, tile_rows, tile_ptr.data()});
      CHECK_EQ(tile_ptr, tiled.tile_ptr);
    }
    CHECK_EQ(executor.waits(), 0);
  }
}

TEST(pair_lists_are_the_same) {
  for (const NamedCloud& cloud : clouds()) {
    const Coords coarse = half_resolution(cloud.coords);
    for (const ConvGeometry& g :
         {cubic(3, 1, 1, 1), cubic(2, 2, 1, 0), cubic(4, 3, 2, 2), cubic(5, 1, 1, 2)}) {
      const check::Note note(cloud.name, ", ", g);
      const Coords& out = g.stride[0] == 1 ? cloud.coords : coarse;
      const std::vector<Pair> pairs = brute_force_pairs(out, cloud.coords, g);
      check_lists(pairs, size_of(cloud.coords), size_of(out), g.kernel_volume());
    }
  }
}

TEST(pair_lists_refuse_what_does_not_fit) {
  const Coords coords = dense_cube(6);
  const ConvGeometry g = cubic(3, 1, 1, 1);
  const std::vector<Pair> pairs = brute_force_pairs(coords, coords, g);
  OwnedTable table = table_of(pairs, size_of(coords), kDescentTaps);
  OwnedPairs lists = pairs_of(pairs, size_of(coords), kDescentTaps, 64);
  std::vector<int32_t> in(pairs.size());
  std::vector<int32_t> out(pairs.size());
  std::vector<int64_t> ptr(1000);
  const PairsView view{lists.in_index.data(), lists.out_index.data(), lists.tap_ptr.data(),
                       size_of(pairs), kDescentTaps};
  Executor executor(1);
  table.mask[5] ^= 2;
  CHECK(says(refusal([&] {
               pairs_by_tap(executor, table.view(), size_of(coords), size_of(pairs), kDescentTaps,
                            PairLists{in.data(), out.data(), ptr.data()});
             }),
             "one bit per neighbour"));
  lists.tap_ptr.back() += 1;
  const TilePairs tiles{view, 64, ptr.data()};
  CHECK(says(refusal([&] { executor.for_each(2 * kDescentTaps, tiles); }), "tap_ptr must ascend"));
  lists.in_index[7] = static_cast<int32_t>(coords.size());
  CHECK(says(
      refusal([&] { transpose_pairs(executor, view, size_of(coords), in.data(), out.data()); }),
      "in_index must be rows"));
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
