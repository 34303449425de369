// SPDX-License-Identifier: MIT
// Kernel maps under a capacity: live rows are those of a call without one, dead rows have no
// neighbours, tables that do not fit are empty, and what stands behind the last pair is not read.
#include <cstdint>
#include <vector>

#include "capacity.h"
#include "check.h"
#include "clouds.h"
#include "cpu/coords.h"
#include "cpu/neighbors.h"
#include "kernels/channelwise_conv.h"
#include "kernels/coarsen.h"
#include "kernels/neighbors_descend.h"
#include "kernels/neighbors_search.h"
#include "kernels/pair_table.h"
#include "kernels/pairs.h"
#include "maps.h"
#include "reductions.h"
#include "refusal.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 3};
constexpr int64_t kDeadRows[] = {0, 40};
constexpr int32_t kFar = INT32_MAX;

std::vector<NamedCloud> clouds() {
  std::vector<NamedCloud> all = small_clouds();
  all.push_back({"surface", lidar_surface(181, 16, 150, 0.6, 2)});
  return all;
}

Coords half_resolution(const Coords& coords) {
  Coords cells;
  for (const Coord& c : coords) cells.push_back(parent_of(c));
  return without_duplicates(cells);
}

/// The table with dead rows behind the live ones, and room behind the last pair.
OwnedTable with_room(OwnedTable table, int64_t dead, int64_t pairs) {
  table.mask.resize(table.mask.size() + static_cast<size_t>(dead * table.words), 0u);
  table.ptr.resize(table.ptr.size() + static_cast<size_t>(dead), table.ptr.back());
  table.rows.resize(table.rows.size() + static_cast<size_t>(pairs), kFar);
  return table;
}

/// passes(executor, arrays, allocate) fill a table of num_out rows, the first of them `expected`.
template <class Passes>
void check_table(const OwnedTable& expected, int64_t num_out, const Passes& passes) {
  const int64_t pairs = size_of(expected.rows);
  const OwnedTable live = with_room(expected, num_out + 1 - size_of(expected.ptr), 0);
  const OwnedTable empty = with_room(table_of({}, 0, live.words * kMaskBits), num_out, 0);
  for (const int64_t capacity : capacities_around(pairs)) {
    const check::Note note(capacity, " pairs for ", pairs);
    Guarded<uint32_t> mask(num_out * live.words);
    Guarded<int64_t> ptr(num_out + 1);
    Guarded<int32_t> rows(capacity);
    Bounded bounded(3, capacity);
    const auto allocate = [&](int64_t size, NeighborArrays* out) {
      CHECK_EQ(size, capacity);
      out->rows = rows.data();
    };
    passes(bounded.executor, NeighborArrays{mask.data(), ptr.data(), nullptr, live.words},
           allocate);
    const bool fits = pairs <= capacity;
    CHECK_EQ(bounded.overflow, fits ? 0 : 1);
    CHECK_EQ(mask.head(mask.size()), fits ? live.mask : empty.mask);
    CHECK_EQ(ptr.head(ptr.size()), fits ? live.ptr : empty.ptr);
    if (fits) CHECK_EQ(rows.head(pairs), live.rows);
  }
}

TEST(searches_pass_dead_rows_over) {
  for (const NamedCloud& cloud : clouds()) {
    for (const ConvGeometry& g :
         {cubic(1, 1, 1, 0), cubic(3, 1, 1, 1), cubic(2, 2, 1, 0), cubic(5, 1, 1, 2)}) {
      const check::Note note(cloud.name, ", ", g);
      const Coords& fine = cloud.coords;
      const Coords coarse = g.stride[0] == 1 ? fine : half_resolution(fine);
      const std::vector<Pair> pairs = brute_force_pairs(coarse, fine, g);
      for (const int64_t dead : kDeadRows) {
        const Coords all_fine = with_dead_rows(fine, dead);
        const Coords all_coarse = with_dead_rows(coarse, 2 * dead);
        const auto check_search = [&](const Coords& rows, const Coords& others, bool inverse,
                                      const OwnedTable& expected) {
          const OwnedHashTable table(others);
          const WindowSearch search{rows.data(), table.view, g, inverse};
          check_table(expected, size_of(rows),
                      [&](Executor& executor, const NeighborArrays& out, const auto& allocate) {
                        neighbors_search(executor, search, size_of(rows), out, allocate);
                      });
        };
        check_search(all_coarse, all_fine, false,
                     table_of(pairs, size_of(coarse), g.kernel_volume()));
        check_search(all_fine, all_coarse, true,
                     table_of(reversed(pairs), size_of(fine), g.kernel_volume()));
      }
    }
  }
}

TEST(dead_rows_are_not_taken_for_the_last_batch) {
  Coords coords;
  for (int32_t x = -3; x < 2; ++x) coords.push_back(Coord{kBatchMax, x, -1, -1});
  const OwnedHashTable table(coords);
  const Coord dead = dead_coord();
  for (const bool inverse : {false, true}) {
    const WindowSearch search{&dead, table.view, cubic(3, 1, 1, 1), inverse};
    for (int tap = 0; tap < kDescentTaps; ++tap) CHECK_EQ(search.find(0, tap), kNoRow);
  }
  uint32_t mask = 7;
  int64_t ptr[2] = {7, 7};
  const ConvGeometry g = cubic(3, 1, 1, 1);
  const cpu::HashSearch search{&dead, 1, table.view, g};
  CHECK(search.run(&mask, ptr, 1)[0].empty() && mask == 0 && ptr[1] == 0);
  const cpu::InverseSearch inverse{&dead, 1, table.view, g};
  CHECK(inverse.run(&mask, ptr, 1)[0].empty() && mask == 0 && ptr[1] == 0);
}

TEST(descent_leaves_dead_children_out) {
  for (const NamedCloud& cloud : clouds()) {
    const check::Note note(cloud.name);
    Coords level = morton_sorted(cloud.coords);
    for (int step = 0; step < 4; ++step) {
      const Coords coarse = half_resolution(level);
      const ConvGeometry g = cubic(3, 1, 1, 1);
      const OwnedTable expected =
          table_of(brute_force_pairs(level, level, g), size_of(level), kDescentTaps);
      const OwnedTable above =
          table_of(brute_force_pairs(coarse, coarse, g), size_of(coarse), kDescentTaps);
      const cpu::Coarsened halved = cpu::coarsen(level.data(), size_of(level), 1);
      for (const int64_t dead : kDeadRows) {
        const OwnedTable cells = with_room(above, dead, 3 * dead);
        std::vector<int32_t> child_ptr(halved.child_ptr);
        std::vector<uint8_t> child_mask(halved.child_mask);
        child_ptr.resize(child_ptr.size() + static_cast<size_t>(dead), child_ptr.back());
        child_mask.resize(child_mask.size() + static_cast<size_t>(dead), 0);
        const int64_t children = size_of(level) + 2 * dead;
        const DescentCells descent{cells.view(),        child_ptr.data(),    child_mask.data(),
                                   size_of(child_mask), size_of(cells.rows), children};
        check_table(expected, children,
                    [&](Executor& executor, const NeighborArrays& out, const auto& allocate) {
                      neighbors_descend(executor, descent, out, allocate);
                    });
      }
      level = coarse;
    }
  }
}

/// The first values, and rubbish behind them, as it was.
void check_head(const std::vector<int32_t>& values, const std::vector<int32_t>& expected) {
  for (size_t i = 0; i < values.size(); ++i) {
    CHECK_EQ(values[i], i < expected.size() ? expected[i] : kFar);
  }
}

void check_lists(const std::vector<Pair>& pairs, int64_t num_in, int64_t num_out, int volume,
                 int64_t room) {
  const int64_t rows = num_out + room / 2;
  const OwnedTable table = with_room(table_of(pairs, num_out, volume), room / 2, room);
  const OwnedPairs expected = pairs_of(pairs, rows, volume, 16);
  const OwnedPairs back = pairs_of(reversed(pairs), num_in, volume, 16);
  const int64_t size = size_of(table.rows);
  for (const int threads : kThreadCounts) {
    Executor executor(threads);
    const auto rubbish = [&] { return std::vector<int32_t>(static_cast<size_t>(size), kFar); };
    std::vector<int32_t> in = rubbish(), out = rubbish(), new_in = rubbish(), new_out = rubbish();
    std::vector<int64_t> tap_ptr(static_cast<size_t>(volume) + 1, -9);
    pairs_by_tap(executor, table.view(), rows, size, volume,
                 PairLists{in.data(), out.data(), tap_ptr.data()});
    CHECK_EQ(tap_ptr, expected.tap_ptr);
    check_head(in, expected.in_index);
    check_head(out, expected.out_index);
    const PairsView view{in.data(), out.data(), tap_ptr.data(), size, volume};
    transpose_pairs(executor, view, num_in, new_in.data(), new_out.data());
    check_head(new_in, back.in_index);
    check_head(new_out, back.out_index);
    std::vector<int64_t> tile_ptr(expected.tile_ptr.size(), -9);
    executor.for_each(size_of(tile_ptr), TilePairs{view, 16, tile_ptr.data()});
    CHECK_EQ(tile_ptr, expected.tile_ptr);
    const auto check_back = [&](const auto& make_table) {
      OwnedTable found(rows, volume);
      found.rows = rubbish();
      const CheckedPairs lists{in.data(), out.data(), tap_ptr.data(), tap_ptr.data() + 1,
                               size,      num_in,     rows,           volume};
      make_table(lists, NeighborArrays{found.mask.data(), found.ptr.data(), found.rows.data(),
                                       found.words});
      CHECK_EQ(found.mask, table.mask);
      CHECK_EQ(found.ptr, table.ptr);
      CHECK_EQ(found.rows, table.rows);
    };
    check_back([&](const auto& lists, const auto& to) { table_of_pairs(executor, lists, to); });
    check_back([&](const auto& lists, const auto& to) { cpu::table_of_pairs(lists, to, threads); });
    CHECK_EQ(executor.waits(), 0);
  }
}

TEST(pair_lists_may_have_room_behind_them) {
  for (const NamedCloud& cloud : clouds()) {
    for (const ConvGeometry& g :
         {cubic(1, 1, 1, 0), cubic(3, 1, 1, 1), cubic(2, 2, 1, 0), cubic(5, 1, 1, 2)}) {
      const check::Note note(cloud.name, ", ", g);
      const Coords coarse = g.stride[0] == 1 ? cloud.coords : half_resolution(cloud.coords);
      const std::vector<Pair> pairs = brute_force_pairs(coarse, cloud.coords, g);
      for (const int64_t room : {0, 1, 300}) {
        check_lists(pairs, size_of(cloud.coords), size_of(coarse), g.kernel_volume(), room);
      }
    }
  }
}

TEST(gradients_of_channelwise_weights_read_no_pairs_behind_the_last) {
  constexpr int64_t kChannels = 3;
  const Coords coords = lidar_surface(182, 8, 100, 0.8);
  const std::vector<Pair> pairs = brute_force_pairs(coords, coords, cubic(3, 1, 1, 1));
  const OwnedPairs lists = pairs_of(pairs, size_of(coords), kDescentTaps, size_of(coords));
  const std::vector<float> feats = seeded_values<float>(183, size_of(coords) * kChannels);
  const std::vector<float> grad_out = seeded_values<float>(184, size_of(coords) * kChannels);
  const auto grad = [&](size_t room) {
    std::vector<int32_t> in(lists.in_index), out(lists.out_index);
    in.resize(in.size() + room, kFar);
    out.resize(out.size() + room, kFar);
    const CheckedPairs taps{
        in.data(),   out.data(),      lists.tap_ptr.data(), lists.tap_ptr.data() + 1,
        size_of(in), size_of(coords), size_of(coords),      kDescentTaps};
    std::vector<float> sums(static_cast<size_t>(kDescentTaps * kChannels), 777.0f);
    Executor executor(2);
    channelwise_weight_grad<1>(
        executor,
        ChannelwiseWeightGrad<float>{taps, feats.data(), grad_out.data(), sums.data(), kChannels});
    return sums;
  };
  for (const size_t room : {1, 64, 5000}) CHECK(same_bits(grad(room), grad(0)));
}

TEST(pairs_that_do_not_belong_make_no_table) {
  const Coords coords = dense_cube(4);
  const std::vector<Pair> pairs = brute_force_pairs(coords, coords, cubic(3, 1, 1, 1));
  const OwnedPairs good = pairs_of(pairs, size_of(coords), kDescentTaps, 64);
  const auto refused = [&](const auto& spoil) {
    OwnedPairs lists = good;
    spoil(lists);
    OwnedTable table(size_of(coords), kDescentTaps);
    table.rows.resize(pairs.size());
    const CheckedPairs checked{lists.in_index.data(), lists.out_index.data(),
                               lists.tap_ptr.data(),  lists.tap_ptr.data() + 1,
                               size_of(pairs),        size_of(coords),
                               size_of(coords),       kDescentTaps};
    return refusal([&] {
      cpu::table_of_pairs(
          checked, NeighborArrays{table.mask.data(), table.ptr.data(), table.rows.data(), 1}, 1);
    });
  };
  CHECK_EQ(refused([](OwnedPairs&) {}), "");
  CHECK(says(refused([](OwnedPairs& l) { l.in_index[5] = -1; }), "rows of the input"));
  CHECK(says(refused([](OwnedPairs& l) { l.out_index[5] = kFar; }), "rows of the output"));
  CHECK(says(refused([](OwnedPairs& l) { l.out_index[1] = l.out_index[0]; }), "must ascend"));
  CHECK(says(refused([](OwnedPairs& l) { l.tap_ptr[0] = 1; }), "cut the pairs into taps"));
  CHECK(says(refused([](OwnedPairs& l) { l.tap_ptr[3] = -1; }), "cut the pairs into taps"));
  CHECK(says(refused([](OwnedPairs& l) { ++l.tap_ptr.back(); }), "cut the pairs into taps"));
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
