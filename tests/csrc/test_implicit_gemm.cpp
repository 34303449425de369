// SPDX-License-Identifier: MIT
// The kernel for tensor cores, run by a block of the CPU: against sums in double for ragged rows
// and channels, all tile shapes, large kernels, any order of rows and of warps.
#include "kernels/implicit_gemm.h"

#include <numeric>
#include <set>
#include <vector>

#include "check.h"
#include "convolutions.h"
#include "gemm_tiles.h"
#include "refusal.h"
#include "tensor_cores.h"

namespace tsl::test {
namespace {

template <class Shape, class S>
std::vector<S> by_tiles(const Problem<S>& p, const std::vector<int32_t>& order,
                        const std::vector<Words4>& weight, bool backwards = false) {
  const OwnedTable table = table_of(p.map.pairs, p.map.num_out, p.map.kernel_volume);
  const int in_channels = whole_words<S>(p.shape.cin);
  Aligned<S> feats(filled_up(p.feats, p.shape.cin, in_channels));
  Aligned<S> residual(p.residual);
  Aligned<S> out(std::vector<S>(p.out_size(), stored(777.0, S{})));
  const ImplicitGemm<S> gemm{{gemm_table(table, p.map)},
                             1,
                             1,
                             {{0, in_channels, feats.data(), weight.data()}},
                             order.data(),
                             p.map.num_out,
                             {{p.or_null(p.bias)},
                              p.shape.has_bias ? 1 : 0,
                              p.shape.has_residual ? residual.data() : nullptr,
                              out.data(),
                              p.shape.cout,
                              p.shape.relu}};
  run_tiles<Shape>(gemm, backwards);
  return out.values();
}

template <class S>
void check_problem(const Map& map, const Shape& shape) {
  const check::Note note("cin ", shape.cin, ", cout ", shape.cout);
  Problem<S> problem(map, shape, static_cast<uint64_t>(100 * shape.cin + shape.cout));
  make_coarse(&problem.feats);
  make_coarse(&problem.weight);
  const Sums expected = exact_conv(problem);
  const std::vector<Words4> weight = packed(problem.weight, problem);
  const std::vector<int32_t> order = order_of(map);
  const auto check_tile = [&](auto tag) {
    using Tile = decltype(tag);
    const check::Note tile("tile of ", Tile::kRows, " rows and ", Tile::kChannels, " channels");
    const std::vector<S> out = by_tiles<Tile>(problem, order, weight);
    expected.expect<float>(out);
    CHECK(same_bits(by_tiles<Tile>(problem, order, weight, true), out));
  };
  for_tile_shapes(check_tile, TileShapes());
}

TEST(maps_of_all_kinds) {
  const Coords surface = lidar_surface(71, 12, 60, 3.0, 2);
  const Map strided = strided_map(surface, cubic(3, 2, 1, 1));
  for (const Map& map : {submanifold_map(surface, 3), submanifold_map(dense_cube(6), 3),
                         submanifold_map(dense_cube(5), 5), submanifold_map(isolated_voxels(70), 3),
                         submanifold_map(surface, 1), strided, transposed_map(strided),
                         strided_map(surface, cubic(2, 2, 1, 0))}) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows, ", map.kernel_volume, " taps");
    for_tensor_core_types([&](auto tag) {
      using S = decltype(tag);
      check_problem<S>(map, Shape{24, 40});
    });
  }
}

TEST(ragged_channels) {
  const Map map = submanifold_map(lidar_surface(72, 8, 40, 3.0), 3);
  for_tensor_core_types([&](auto tag) {
    using S = decltype(tag);
    for (const int channels : {1, 4, 8, 31, 32, 33, 64, 72, 96, 130}) {
      check_problem<S>(map, Shape{channels, 8, 1, true, true, true});
      check_problem<S>(map, Shape{8, channels, 1, false, true, false});
    }
    check_problem<S>(map, Shape{96, 96, 1, true, false, true});
  });
}

TEST(ragged_rows) {
  const Coords surface = lidar_surface(73, 12, 80, 3.0);
  for (const size_t rows : {0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200}) {
    const check::Note note(rows, " rows");
    CHECK(surface.size() > rows);
    const Coords some(surface.begin(), surface.begin() + static_cast<int64_t>(rows));
    check_problem<BFloat16>(submanifold_map(some, 3), Shape{32, 32, 1, true, true, true});
  }
}

TEST(taps_and_rows_without_an_input) {
  Map map = submanifold_map(lidar_surface(74, 8, 40, 3.0), 3);
  map.pairs.erase(std::remove_if(map.pairs.begin(), map.pairs.end(),
                                 [](const Pair& p) { return p.tap % 5 != 1 || p.out % 3 == 0; }),
                  map.pairs.end());
  check_problem<BFloat16>(map, Shape{40, 32});
  map.pairs.clear();
  check_problem<BFloat16>(map, Shape{40, 32, 1, true, true, true});
}

TEST(stored_weights_may_be_mirrored_and_transposed) {
  const Map map = submanifold_map(lidar_surface(75, 8, 40, 3.0), 3);
  const Problem<BFloat16> problem(map, Shape{19, 35}, 76);
  const std::vector<Words4> expected = packed(problem.weight, problem);
  for (const bool transposed : {false, true}) {
    for (const bool mirrored : {false, true}) {
      std::vector<BFloat16> weight(problem.weight.size());
      for (int tap = 0; tap < map.kernel_volume; ++tap) {
        const int stored_tap = mirrored ? map.kernel_volume - 1 - tap : tap;
        for (int in = 0; in < 19; ++in) {
          for (int out = 0; out < 35; ++out) {
            const int to =
                transposed ? (stored_tap * 35 + out) * 19 + in : (stored_tap * 19 + in) * 35 + out;
            at(weight, to) = at(problem.weight, (tap * 19 + in) * 35 + out);
          }
        }
      }
      const std::vector<Words4> words = packed(weight, problem, transposed, mirrored);
      CHECK(same_bits(words, expected));
    }
  }
}

TEST(an_output_depends_on_its_own_row_only) {
  const Map map = submanifold_map(lidar_surface(77, 12, 60, 3.0), 3);
  const Problem<Float16> problem(map, Shape{32, 40}, 78);
  const std::vector<Words4> weight = packed(problem.weight, problem);
  std::vector<int32_t> order = order_of(map);
  const std::vector<Float16> expected = by_tiles<TileShape<1, 1>>(problem, order, weight);
  for (int seed = 0; seed < 3; ++seed) {
    Random(static_cast<uint64_t>(79 + seed)).shuffle(order);
    CHECK(same_bits(by_tiles<TileShape<1, 1>>(problem, order, weight), expected));
    CHECK(same_bits(by_tiles<TileShape<2, 2>>(problem, order, weight), expected));
  }
}

TEST(arrays_that_do_not_belong_together_are_refused) {
  const Map map = submanifold_map(lidar_surface(83, 8, 40, 3.0), 3);
  const Problem<BFloat16> problem(map, Shape{8, 8}, 84);
  const std::vector<Words4> weight = packed(problem.weight, problem);
  const std::vector<int32_t> order = order_of(map);
  const auto refused = [&](const Problem<BFloat16>& p, const std::vector<int32_t>& rows) {
    return refusal([&] { by_tiles<TileShape<1, 1>>(p, rows, weight); });
  };
  CHECK_EQ(refused(problem, order), "");
  Problem<BFloat16> few_inputs(problem);
  few_inputs.map.num_in -= 1;
  CHECK(says(refused(few_inputs, order), "rows of the input"));
  for (const int32_t row : {int32_t{-1}, static_cast<int32_t>(map.num_out)}) {
    std::vector<int32_t> wrong(order);
    wrong[3] = row;
    CHECK(says(refused(problem, wrong), "output rows"));
  }
}

TEST(nan_and_infinity_pass) {
  const Map map = submanifold_map(lidar_surface(80, 8, 40, 3.0), 3);
  Problem<BFloat16> problem(map, Shape{32, 32, 1, true, false, true}, 81);
  at(problem.feats, 5 * 32 + 3) = stored(std::nan(""), BFloat16{});
  const std::vector<BFloat16> out =
      by_tiles<TileShape<1, 1>>(problem, order_of(map), packed(problem.weight, problem));
  std::set<int32_t> reached;
  for (const Pair& pair : map.pairs) {
    if (pair.in == 5) reached.insert(pair.out);
  }
  for (int32_t row = 0; row < map.num_out; ++row) {
    CHECK_EQ(std::isnan(exact(at(out, row * 32))), reached.count(row) == 1);
  }
}

/// Groups of 8 rows and taps that have any pair, times 8: the rows that are multiplied.
int64_t multiplied_rows(const Map& map, const std::vector<int32_t>& order) {
  std::vector<int32_t> slot(order.size());
  for (size_t i = 0; i < order.size(); ++i) at(slot, order[i]) = static_cast<int32_t>(i);
  std::set<std::pair<int, int32_t>> groups;
  for (const Pair& pair : map.pairs) groups.insert({pair.tap, at(slot, pair.out) / kFragmentRows});
  return kFragmentRows * size_of(groups);
}

TEST(the_order_of_rows_is_a_permutation_inside_blocks_that_saves_work) {
  const Map map = submanifold_map(lidar_surface(82, 32, 400, 0.3), 3);
  const std::vector<int32_t> order = order_of(map);
  std::vector<int32_t> natural(order.size());
  std::iota(natural.begin(), natural.end(), 0);
  for (size_t i = 0; i < order.size(); ++i) {
    CHECK_EQ(order[i] / kBlockRows, static_cast<int64_t>(i) / kBlockRows);
  }
  const double saved = static_cast<double>(multiplied_rows(map, order)) /
                       static_cast<double>(multiplied_rows(map, natural));
  CHECK(saved < 0.8);
  CHECK(std::is_permutation(order.begin(), order.end(), natural.begin()));
}

TEST(the_order_of_rows_of_large_kernels_is_kept) {
  const Map map = submanifold_map(dense_cube(5), 5);
  const std::vector<int32_t> order = order_of(map);
  for (size_t i = 0; i < order.size(); ++i) CHECK_EQ(order[i], static_cast<int32_t>(i));
}

TEST(ranks_of_the_gray_code) {
  for (uint32_t rank = 0; rank < 5000; ++rank) CHECK_EQ(gray_rank(rank ^ rank >> 1), rank);
  CHECK_EQ(gray_rank(0x80000000u), 0xffffffffu);
}

TEST(float_is_rounded_to_tf32) {
  const Map map = submanifold_map(lidar_surface(85, 8, 40, 3.0), 3);
  const Problem<float> problem(map, Shape{32, 32}, 86);
  Problem<float> coarse(problem);
  for (std::vector<float>* values : {&coarse.feats, &coarse.weight}) {
    for (float& value : *values) value = rounded_to_tf32(value);
  }
  const auto convolved = [&](const Problem<float>& p) {
    return by_tiles<TileShape<1, 1>>(p, order_of(map), packed(p.weight, p));
  };
  CHECK(!same_bits(problem.feats, coarse.feats));
  CHECK(same_bits(convolved(problem), convolved(coarse)));
  exact_conv(coarse).expect<float>(convolved(problem));
}

/// Rows and columns that the words of all lanes hold, `numbers` in each.
template <class PlaceOf>
void check_places(int words, int rows, int columns, Place next, int numbers, const PlaceOf& place) {
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    for (int w = 0; w < words; ++w) {
      const Place at = place(lane, w);
      for (int n = 0; n < numbers; ++n) {
        seen.insert({at.row + n * next.row, at.column + n * next.column});
      }
    }
  }
  CHECK_EQ(size_of(seen), int64_t{rows} * columns);
  CHECK((*seen.begin() == std::pair{0, 0}));
  CHECK((*seen.rbegin() == std::pair{rows - 1, columns - 1}));
}

TEST(lanes_hold_every_number_of_a_fragment_once) {
  for_tensor_core_types([](auto tag) {
    using S = decltype(tag);
    constexpr int kNumbers = Operand<S>::kNumbers;
    constexpr int kDepth = Operand<S>::kFragment;
    check_places(4, 16, kDepth, {0, 1}, kNumbers, [](int l, int w) { return place_in_a<S>(l, w); });
    check_places(2, kDepth, 8, {1, 0}, kNumbers, [](int l, int w) { return place_in_b<S>(l, w); });
  });
  check_places(4, 16, 8, {0, 0}, 1, [](int lane, int i) { return place_in_d(lane, i); });
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
