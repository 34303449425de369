// SPDX-License-Identifier: MIT
// Implicit GEMM over one to four parts, run by a block of the CPU: against sums in double for parts
// of one table, of several and of none, ragged channels, and rows that no tap reaches.
#include <algorithm>
#include <deque>
#include <vector>

#include "check.h"
#include "convolutions.h"
#include "gemm_tiles.h"
#include "kernels/implicit_gemm.h"
#include "refusal.h"
#include "tensor_cores.h"

namespace tsl::test {
namespace {

/// Every row from itself, through one tap.
Map own_rows(int64_t count) {
  Map map{{}, count, count, 1, 0};
  for (int32_t row = 0; row < count; ++row) map.pairs.push_back(Pair{0, row, row});
  return map;
}

struct PartShape {
  int table;  // or kNoTable
  int channels;
};

/// What is summed, and onto how many channels.
struct Plan {
  std::vector<PartShape> parts;
  int out_channels = 40;
  int num_biases = 1;
  bool has_residual = false;
  bool relu = false;
};

/// A sum of convolutions with its operands; the first problem holds the residual.
template <class S>
class Sum {
 public:
  Sum(int64_t num_out, const std::vector<Map>& maps, const Plan& plan, uint64_t seed)
      : maps_(maps), plan_(plan) {
    for (const Map& map : maps_) {
      tables_.push_back(table_of(map.pairs, map.num_out, map.kernel_volume));
    }
    int number = 0;
    for (const PartShape& part : plan_.parts) {
      const Map map = part.table == kNoTable ? own_rows(num_out) : map_of(part);
      const Shape shape{part.channels, plan_.out_channels, 1, number < plan_.num_biases,
                        number == 0 && plan_.has_residual};
      Problem<S>& problem =
          problems_.emplace_back(map, shape, seed + static_cast<uint64_t>(number));
      make_coarse(&problem.feats);
      make_coarse(&problem.weight);
      weights_.push_back(packed(problem.weight, problem));
      const int width = whole_words<S>(part.channels);
      feats_.emplace_back(filled_up(problem.feats, part.channels, width));
      ++number;
    }
  }

  Sums exact() const {
    Sums total(static_cast<int64_t>(problems_[0].out_size()));
    for (const Problem<S>& problem : problems_) {
      const Sums part = exact_conv(problem);
      for (size_t i = 0; i < total.sum.size(); ++i) {
        total.sum[i] += part.sum[i];
        total.magnitude[i] += part.magnitude[i];
        total.terms[i] += part.terms[i];
      }
    }
    for (double& sum : total.sum) sum = plan_.relu ? std::max(sum, 0.0) : sum;
    return total;
  }

  template <class Tile>
  std::vector<S> by_tiles(const std::vector<int32_t>& order, bool backwards = false) {
    Aligned<S> residual(problems_[0].residual);
    Aligned<S> out(std::vector<S>(problems_[0].out_size(), stored(777.0, S{})));
    ImplicitGemm<S> gemm{};
    gemm.tables[0] = empty_table();
    for (size_t i = 0; i < tables_.size(); ++i) gemm.tables[i] = gemm_table(tables_[i], maps_[i]);
    gemm.num_tables = std::max(static_cast<int>(size_of(tables_)), 1);
    gemm.num_parts = static_cast<int>(size_of(problems_));
    for (size_t i = 0; i < problems_.size(); ++i) {
      gemm.parts[i] = {plan_.parts[i].table, whole_words<S>(plan_.parts[i].channels),
                       feats_[i].data(), weights_[i].data()};
      gemm.out.biases[i] = Problem<S>::or_null(problems_[i].bias);
    }
    gemm.order = order.data();
    gemm.num_out = size_of(order);
    gemm.out.num_biases = plan_.num_biases;
    gemm.out.residual = plan_.has_residual ? residual.data() : nullptr;
    gemm.out.out = out.data();
    gemm.out.channels = plan_.out_channels;
    gemm.out.relu = plan_.relu;
    run_tiles<Tile>(gemm, backwards);
    return out.values();
  }

 private:
  const Map& map_of(const PartShape& part) const { return maps_[static_cast<size_t>(part.table)]; }

  std::vector<Map> maps_;
  Plan plan_;
  std::vector<OwnedTable> tables_;
  std::deque<Problem<S>> problems_;
  std::vector<std::vector<Words4>> weights_;
  std::vector<Aligned<S>> feats_;
};

template <class S>
void check_sum(const std::vector<Map>& maps, const Plan& plan, uint64_t seed) {
  Sum<S> sum(maps[0].num_out, maps, plan, seed);
  const Sums expected = sum.exact();
  const std::vector<int32_t> order = order_of(maps[0]);
  const auto check_tile = [&](auto tag) {
    using Tile = decltype(tag);
    const check::Note tile("tile of ", Tile::kRows, " rows and ", Tile::kChannels, " channels");
    const std::vector<S> out = sum.template by_tiles<Tile>(order);
    expected.expect<float>(out);
    CHECK(same_bits(sum.template by_tiles<Tile>(order, true), out));
  };
  for_tile_shapes(check_tile, TileShapes());
}

Map surface_map(int32_t kernel_size = 3) {
  return submanifold_map(lidar_surface(91, 8, 40, 3.0), kernel_size);
}

TEST(parts_of_one_table_and_of_none) {
  const Map map = surface_map();
  const PartShape side{0, 24}, own{kNoTable, 40};
  const std::vector<std::vector<PartShape>> plans = {
      {side},
      {side, {0, 33}},
      {side, own},
      {own, side},
      {side, own, {kNoTable, 8}},
      {own, {kNoTable, 8}},
      {side, {0, 8}, own, {kNoTable, 72}},
      {side, {0, 8}, {0, 40}, {0, 16}},
  };
  for_tensor_core_types([&](auto tag) {
    uint64_t seed = 100;
    for (const auto& parts : plans) {
      const check::Note note(parts.size(), " parts, seed ", seed);
      check_sum<decltype(tag)>({map}, Plan{parts}, seed);
      seed += 10;
    }
  });
}

TEST(parts_of_several_tables) {
  const Map small = surface_map(), large = surface_map(5), one = surface_map(1);
  const PartShape own{kNoTable, 24};
  for_tensor_core_types([&](auto tag) {
    using S = decltype(tag);
    check_sum<S>({small, large}, Plan{{{0, 8}, {1, 8}}}, 200);
    check_sum<S>({large, one, small}, Plan{{{2, 16}, own, {0, 8}, {1, 40}}}, 210);
  });
}

TEST(without_a_table_it_is_a_matrix_product) {
  const Map map = surface_map();
  const std::vector<int32_t> order = order_of(map);
  for_tensor_core_types([&](auto tag) {
    Sum<decltype(tag)> sum(map.num_out, {}, Plan{{{kNoTable, 40}, {kNoTable, 8}}}, 300);
    sum.exact().template expect<float>(sum.template by_tiles<TileShape<2, 2>>(order));
  });
}

TEST(ragged_channels_of_each_part) {
  const Map map = surface_map();
  for_tensor_core_types([&](auto tag) {
    using S = decltype(tag);
    for (const int channels : {1, 8, 31, 64, 72}) {
      const check::Note note(channels, " channels");
      check_sum<S>({map}, Plan{{{0, channels}, {0, 8}, {kNoTable, 40}}, 32, 2, true, true}, 400);
      check_sum<S>({map}, Plan{{{0, 8}, {kNoTable, channels}}, channels, 2, false, true}, 410);
    }
  });
}

TEST(every_part_may_have_a_bias) {
  const Map map = surface_map();
  for (const int num_biases : {0, 1, 2, 3, 4}) {
    const check::Note note(num_biases, " biases");
    const std::vector<PartShape> parts = {{0, 8}, {kNoTable, 8}, {0, 16}, {kNoTable, 16}};
    check_sum<BFloat16>({map}, Plan{parts, 33, num_biases, true, true}, 500);
  }
}

TEST(rows_without_an_input_still_read_their_own) {
  Map map = surface_map();
  const auto erase = [&](const auto& is_dead) {
    const auto dead = std::remove_if(map.pairs.begin(), map.pairs.end(), is_dead);
    map.pairs.erase(dead, map.pairs.end());
  };
  const Plan plan{{{0, 40}, {0, 8}, {kNoTable, 40}, {kNoTable, 8}}};
  erase([](const Pair& pair) { return pair.tap % 5 != 1 || pair.out % 3 == 0; });
  check_sum<BFloat16>({map}, plan, 600);
  erase([](const Pair& pair) { return pair.out >= 64; });
  check_sum<BFloat16>({map}, plan, 610);
  map.pairs.clear();
  check_sum<BFloat16>({map}, plan, 620);
}

TEST(ragged_rows) {
  const Coords surface = lidar_surface(92, 12, 80, 3.0);
  for (const size_t rows : {0, 1, 8, 9, 63, 64, 65, 129}) {
    const check::Note note(rows, " rows");
    CHECK(surface.size() > rows);
    const Coords some(surface.begin(), surface.begin() + static_cast<int64_t>(rows));
    const Plan plan{{{0, 32}, {0, 16}, {kNoTable, 32}}, 32, 2, true, true};
    check_sum<Float16>({submanifold_map(some, 3)}, plan, 700);
  }
}

TEST(a_part_without_a_table_is_a_map_of_own_rows) {
  const Map map = surface_map();
  const std::vector<int32_t> order = order_of(map);
  const auto summed = [&](int table) {
    const std::vector<Map> maps = {map, own_rows(map.num_out)};
    Sum<Float16> sum(map.num_out, maps, Plan{{{0, 24}, {table, 40}}}, 800);
    return sum.by_tiles<TileShape<1, 2>>(order);
  };
  CHECK(same_bits(summed(kNoTable), summed(1)));
}

TEST(tables_of_other_inputs_are_refused) {
  const Map map = surface_map();
  const std::vector<int32_t> order = order_of(map);
  for (const size_t wrong : {size_t{0}, size_t{1}}) {
    std::vector<Map> maps = {map, surface_map(5)};
    const auto refused = [&] {
      Sum<BFloat16> sum(map.num_out, maps, Plan{{{0, 8}, {1, 8}, {kNoTable, 8}}}, 900);
      return refusal([&] { sum.by_tiles<TileShape<1, 1>>(order); });
    };
    CHECK_EQ(refused(), "");
    maps[wrong].num_in -= 1;
    CHECK(says(refused(), "rows of the input"));
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
