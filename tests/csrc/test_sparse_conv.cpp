// SPDX-License-Identifier: MIT
// Sparse convolution: the plain specification against sums in double, and every table of
// available_simd_kernels() against both, for ragged channels, groups, layouts, tiles and threads.
#include "cpu/sparse_conv.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "convolutions.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3};
constexpr int64_t kTileRows = 64;

const auto& kernels_of(const cpu::SimdKernels& table, float) { return table.f32; }
const auto& kernels_of(const cpu::SimdKernels& table, double) { return table.f64; }
const auto& kernels_of(const cpu::SimdKernels& table, BFloat16) { return table.bf16; }
const auto& kernels_of(const cpu::SimdKernels& table, Float16) { return table.f16; }

/// run(table) for every instruction set.
template <class Run>
void for_each_table(const Run& run) {
  for (const cpu::SimdKernels* const table : all_simd_kernels()) {
    const check::Note note(table->name);
    run(*table);
  }
}

template <class S>
cpu::WeightLayout layout_of(const Problem<S>& p) {
  return cpu::WeightLayout{p.map.kernel_volume, p.shape.groups, p.shape.cin,
                           p.shape.cout,        false,          false};
}

template <class S>
std::vector<S> by_kernels(const Problem<S>& p, const cpu::SimdKernels& table,
                          const cpu::WeightLayout& layout, const std::vector<S>& stored_weight,
                          int64_t tile_rows, int threads) {
  const OwnedPairs pairs = pairs_of(p.map.pairs, p.map.num_out, p.map.kernel_volume, tile_rows);
  std::vector<S> out(p.out_size(), stored(777.0, S{}));
  const cpu::ConvArguments<S> arguments{
      pairs.tiles(),     p.feats.data(),        out.data(), stored_weight.data(),
      p.or_null(p.bias), p.or_null(p.residual), layout,     p.map.full_tap,
      p.shape.relu};
  cpu::sparse_conv(arguments, kernels_of(table, S{}), threads);
  return out;
}

template <class S>
std::vector<S> by_kernels(const Problem<S>& p, const cpu::SimdKernels& table,
                          int64_t tile_rows = kTileRows, int threads = 1) {
  return by_kernels(p, table, layout_of(p), p.weight, tile_rows, threads);
}

/// Specification and every table against the sums in double.
template <class S>
void check_problem(const Map& map, const Shape& shape) {
  const check::Note note("cin ", shape.cin, ", cout ", shape.cout, ", groups ", shape.groups,
                         ", bias ", shape.has_bias, ", residual ", shape.has_residual, ", relu ",
                         shape.relu);
  const Problem<S> problem(map, shape, static_cast<uint64_t>(100 * shape.cin + shape.cout));
  const Sums expected = exact_conv(problem);
  expected.expect<SumOf<S>>(problem.by_specification());
  for_each_table([&](const cpu::SimdKernels& table) {
    expected.expect<SumOf<S>>(by_kernels(problem, table));
    if (map.full_tap < 0 || shape.relu) return;
    Problem<S> without_full_tap(problem);
    without_full_tap.map.full_tap = -1;
    expected.expect<SumOf<S>>(by_kernels(without_full_tap, table));
  });
}

std::vector<Map> maps_of_all_kinds() {
  const Coords surface = lidar_surface(62, 12, 80, 3.0, 2);
  const Map strided = strided_map(surface, cubic(3, 2, 1, 1));
  return {submanifold_map(surface, 3),
          submanifold_map(dense_cube(16), 3),
          submanifold_map(dense_cube(6), 5),
          submanifold_map(isolated_voxels(150), 3),
          submanifold_map({Coord{0, 0, 0, 0}}, 3),
          strided_map(surface, cubic(2, 2, 1, 0)),
          strided,
          transposed_map(strided)};
}

TEST(the_specification_and_all_kernels_are_right_on_maps_of_all_kinds) {
  for (const Map& map : maps_of_all_kinds()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows");
    for_each_type([&](auto tag) {
      using S = decltype(tag);
      check_problem<S>(map, Shape{3, 7});
      check_problem<S>(map, Shape{4, 16, 1, false, true, true});
    });
  }
}

TEST(ragged_channels) {
  const Map map = small_map();
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (int channels = 1; channels <= 67; ++channels) {
      check_problem<S>(
          map, Shape{channels, 5, 1, channels % 2 == 0, channels % 3 == 0, channels % 5 == 0});
      check_problem<S>(
          map, Shape{3, channels, 1, channels % 2 != 0, channels % 3 == 1, channels % 5 == 1});
    }
    Random random(63);
    for (int i = 0; i < 12; ++i) {
      check_problem<S>(map, Shape{static_cast<int>(random.integer(8, 67)),
                                  static_cast<int>(random.integer(8, 67))});
    }
    check_problem<S>(map, Shape{64, 64, 1, true, true, true});
    check_problem<S>(map, Shape{33, 67, 1, true, true, true});
  });
}

TEST(channel_groups_and_depthwise) {
  const Map map = small_map();
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const Shape& shape : {Shape{1, 1, 19}, Shape{2, 3, 5}, Shape{8, 16, 2}, Shape{17, 4, 3},
                               Shape{5, 33, 2}, Shape{1, 2, 16}, Shape{16, 16, 4}}) {
      check_problem<S>(map, shape);
      check_problem<S>(map, Shape{shape.cin, shape.cout, shape.groups, false, true, true});
    }
  });
}

TEST(bits_depend_neither_on_threads_nor_on_tiles) {
  const Map map = submanifold_map(lidar_surface(64, 12, 80, 2.5, 2), 3);
  CHECK(map.num_out > 5 * kTileRows);
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const Shape& shape : {Shape{17, 33, 1, true, true, true}, Shape{32, 64}, Shape{9, 7, 2}}) {
      const Problem<S> problem(map, shape, 65);
      for_each_table([&](const cpu::SimdKernels& table) {
        const std::vector<S> expected = by_kernels(problem, table);
        for (const int threads : kThreadCounts) {
          CHECK(same_bits(by_kernels(problem, table, kTileRows, threads), expected));
        }
        for (const int64_t tile_rows : {1, 5, 48, 100, 1024}) {
          CHECK(same_bits(by_kernels(problem, table, tile_rows), expected));
        }
      });
    }
  });
}

TEST(bits_depend_neither_on_row_order_nor_on_batch_mates) {
  const Coords coords = lidar_surface(66, 12, 80, 3.0, 2);
  std::vector<int32_t> order;  // of the rows in the second problem
  for (int32_t row = 0; row < static_cast<int32_t>(coords.size()); ++row) order.push_back(row);
  Random(67).shuffle(order);
  std::vector<int32_t> one_batch;
  for (const int32_t row : order) {
    if (at(coords, row).batch == 1) one_batch.push_back(row);
  }
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    const Problem<S> whole(submanifold_map(coords, 3), Shape{19, 21}, 68);
    for (const std::vector<int32_t>& rows : {order, one_batch}) {
      Coords chosen;
      for (const int32_t row : rows) chosen.push_back(at(coords, row));
      Problem<S> part(submanifold_map(chosen, 3), whole.shape, 68);
      part.weight = whole.weight;
      part.bias = whole.bias;
      const int64_t cin = whole.in_channels();
      const int64_t cout = whole.out_channels();
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto from = whole.feats.begin() + rows[i] * cin;
        std::copy(from, from + cin, part.feats.begin() + static_cast<int64_t>(i) * cin);
      }
      for_each_table([&](const cpu::SimdKernels& table) {
        const std::vector<S> all = by_kernels(whole, table);
        std::vector<S> expected;
        for (const int32_t row : rows) {
          expected.insert(expected.end(), all.begin() + row * cout, all.begin() + (row + 1) * cout);
        }
        CHECK(same_bits(by_kernels(part, table), expected));
      });
    }
  });
}

TEST(mirrored_and_transposed_weights_are_the_same_weights) {
  const Map map = small_map();
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const Shape& shape : {Shape{7, 11}, Shape{16, 32}, Shape{3, 5, 4}}) {
      const Problem<S> problem(map, shape, 69);
      const int64_t in_channels = problem.in_channels();
      const int64_t out_channels = problem.out_channels();
      for (const bool transposed : {false, true}) {
        for (const bool mirrored : {false, true}) {
          const check::Note note("transposed ", transposed, ", mirrored ", mirrored);
          std::vector<S> weight(problem.weight.size());
          for (int64_t tap = 0; tap < map.kernel_volume; ++tap) {
            const int64_t stored_tap = mirrored ? map.kernel_volume - 1 - tap : tap;
            for (int64_t ci = 0; ci < shape.cin; ++ci) {
              for (int64_t channel = 0; channel < out_channels; ++channel) {
                const int64_t group = channel / shape.cout;
                const int64_t co = channel % shape.cout;
                const int64_t to =
                    transposed
                        ? (stored_tap * shape.cout + co) * in_channels + group * shape.cin + ci
                        : (stored_tap * shape.cin + ci) * out_channels + channel;
                at(weight, to) =
                    at(problem.weight, (tap * shape.cin + ci) * out_channels + channel);
              }
            }
          }
          cpu::WeightLayout layout = layout_of(problem);
          layout.transposed = transposed;
          layout.mirrored = mirrored;
          for_each_table([&](const cpu::SimdKernels& table) {
            const std::vector<S> out = by_kernels(problem, table, layout, weight, kTileRows, 1);
            CHECK(same_bits(out, by_kernels(problem, table)));
          });
        }
      }
    }
  });
}

/// <conv(x), y> = <x, adjoint(y)>: what the backward pass relies on.
TEST(the_transposed_layout_computes_the_adjoint) {
  const Shape shape{5, 9, 2, false};
  const Map map = small_map();
  const Problem<double> forward(map, shape, 70);
  Problem<double> backward(transposed_map(map), Shape{9, 5, 2, false}, 71);
  backward.weight = forward.weight;
  cpu::WeightLayout layout = layout_of(backward);
  layout.transposed = true;
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for_each_table([&](const cpu::SimdKernels& table) {
    const double expected = dot(by_kernels(forward, table), backward.feats);
    const std::vector<double> adjoint =
        by_kernels(backward, table, layout, forward.weight, kTileRows, 1);
    CHECK(std::fabs(dot(adjoint, forward.feats) - expected) < 1e-9);
    // A submanifold map read backwards is the map itself with its taps in reverse.
    Problem<double> mirrored(backward);
    mirrored.map = map;
    layout.mirrored = true;
    mirrored.map.full_tap = -1;
    const std::vector<double> again =
        by_kernels(mirrored, table, layout, forward.weight, kTileRows, 1);
    CHECK(std::fabs(dot(again, forward.feats) - expected) < 1e-9);
    layout.mirrored = false;
  });
}

/// A convolution with the identity returns each finite 16-bit value as it was.
template <class S>
void check_every_value() {
  constexpr int kChannels = 24;
  constexpr int64_t kRows = 65536 / kChannels + 1;
  Map map{{}, kRows, kRows, 1, 0};
  for (int32_t row = 0; row < kRows; ++row) map.pairs.push_back(Pair{0, row, row});
  Problem<S> problem(map, Shape{kChannels, kChannels, 1, false}, 72);
  std::fill(problem.feats.begin(), problem.feats.end(), S{0});
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const S value{static_cast<uint16_t>(bits)};
    if (std::isfinite(to_float(value))) at(problem.feats, bits) = value;
  }
  for (int64_t i = 0; i < size_of(problem.weight); ++i) {
    at(problem.weight, i) = stored(i / kChannels == i % kChannels ? 1.0 : 0.0, S{});
  }
  for_each_table([&](const cpu::SimdKernels& table) {
    const std::vector<S> out = by_kernels(problem, table);
    for (size_t i = 0; i < out.size(); ++i) {
      const double value = exact(problem.feats[i]);
      // The bfloat16 instructions of x86 take subnormal numbers for zero.
      const bool may_vanish = std::is_same_v<S, BFloat16> && std::fabs(value) < 0x1p-126;
      if (exact(out[i]) != value && !(may_vanish && exact(out[i]) == 0))
        CHECK_EQ(exact(out[i]), value);
    }
  });
}

TEST(every_16_bit_value_passes_the_kernels_unchanged) {
  check_every_value<Float16>();
  check_every_value<BFloat16>();
}

/// What a slice of a tensor looks like: rows begin at any element, not at a vector's boundary.
TEST(operands_may_begin_at_any_element) {
  const Map map = small_map();
  const OwnedPairs pairs = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const Shape& shape : {Shape{16, 32, 1, true, true, true}, Shape{5, 9, 2}}) {
      const Problem<S> problem(map, shape, 78);
      const auto shifted = [](std::vector<S> values) {
        values.insert(values.begin(), S{});
        return values;
      };
      const std::vector<S> feats = shifted(problem.feats);
      const std::vector<S> weight = shifted(problem.weight);
      const std::vector<S> bias = shifted(problem.bias);
      const std::vector<S> residual = shifted(problem.residual);
      for_each_table([&](const cpu::SimdKernels& table) {
        std::vector<S> out(problem.out_size() + 1, S{});
        const cpu::ConvArguments<S> arguments{
            pairs.tiles(),      feats.data() + 1,
            out.data() + 1,     weight.data() + 1,
            bias.data() + 1,    shape.has_residual ? residual.data() + 1 : nullptr,
            layout_of(problem), map.full_tap,
            shape.relu};
        cpu::sparse_conv(arguments, kernels_of(table, S{}), 1);
        CHECK(same_bits(out, shifted(by_kernels(problem, table))));
      });
    }
  });
}

TEST(nan_and_infinity_stay_in_their_rows_and_nan_passes_the_relu) {
  const Map map = submanifold_map(isolated_voxels(40), 3);  // every row is its own only neighbour
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const double odd :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      Problem<S> problem(map, Shape{5, 7, 1, true, false, true}, 73);
      const Problem<S> clean(problem);
      at(problem.feats, 11 * 5 + 4) = stored(odd, S{});
      const auto check = [&](const std::vector<S>& out, const std::vector<S>& clean_out) {
        for (int64_t i = 0; i < size_of(out); ++i) {
          const double value = exact(at(out, i));
          if (i / 7 != 11) {
            CHECK_EQ(value, exact(at(clean_out, i)));
          } else if (std::isnan(odd)) {
            CHECK(std::isnan(value));
          } else {
            const double w = exact(at(problem.weight, (13 * 5 + 4) * 7 + i % 7));
            CHECK_EQ(value, w > 0 ? odd : 0.0);
          }
        }
      };
      check(problem.by_specification(), clean.by_specification());
      for_each_table([&](const cpu::SimdKernels& table) {
        check(by_kernels(problem, table), by_kernels(clean, table));
      });
    }
  });
}

TEST(rows_without_pairs_hold_bias_and_residual_and_empty_maps_are_legal) {
  const Map no_pairs{{}, 0, 130, 27, -1};
  const Map no_outputs{{}, 50, 0, 27, -1};
  const Map nothing{{}, 0, 0, 27, 13};
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (const Map& map : {no_pairs, no_outputs, nothing}) {
      check_problem<S>(map, Shape{4, 9, 1, true, true, true});
      check_problem<S>(map, Shape{4, 16, 2, false, false, false});
    }
  });
}

/// dW of every table against double, with up to `threads` threads.
template <class S>
void check_weight_grad(const Map& map, const Shape& shape, int64_t tile_rows, int threads = 1) {
  using A = SumOf<S>;
  const check::Note note("cin ", shape.cin, ", cout ", shape.cout, ", groups ", shape.groups);
  const Problem<S> problem(map, shape, 74);
  Random random(75);
  const int64_t in_channels = problem.in_channels();
  const int64_t out_channels = problem.out_channels();
  const std::vector<S> grad_out = random_values<S>(random, map.num_out * out_channels);
  Sums expected(size_of(problem.weight));
  for (const Pair& pair : map.pairs) {
    for (int64_t ci = 0; ci < shape.cin; ++ci) {
      for (int64_t channel = 0; channel < out_channels; ++channel) {
        const int64_t group = channel / shape.cout;
        expected.add((int64_t{pair.tap} * shape.cin + ci) * out_channels + channel,
                     exact(at(problem.feats, pair.in * in_channels + group * shape.cin + ci)),
                     exact(at(grad_out, pair.out * out_channels + channel)));
      }
    }
  }
  const OwnedPairs pairs = pairs_of(map.pairs, map.num_out, map.kernel_volume, tile_rows);
  for_each_table([&](const cpu::SimdKernels& table) {
    std::vector<A> first;
    for (int count = 1; count <= threads; ++count) {
      std::vector<A> grad(problem.weight.size(), A(777));
      const cpu::WeightGradArguments<S, A> arguments{pairs.tiles(),   problem.feats.data(),
                                                     grad_out.data(), grad.data(),
                                                     shape.groups,    shape.cin,
                                                     shape.cout};
      cpu::sparse_conv_weight_grad(arguments, kernels_of(table, S{}), count);
      if (count == 1) {
        expected.expect<A>(grad);
        first = grad;
      }
      CHECK(same_bits(grad, first));
    }
  });
}

TEST(weight_gradients) {
  const Map map = small_map();
  for_each_type([&](auto tag) {
    using S = decltype(tag);
    for (int channels = 1; channels <= 67; channels += 3) {
      check_weight_grad<S>(map, Shape{channels, 5}, 64);
      check_weight_grad<S>(map, Shape{3, channels}, 32);
    }
    for (const Shape& shape : {Shape{65, 67}, Shape{1, 1, 19}, Shape{2, 3, 5}, Shape{17, 16, 2}}) {
      check_weight_grad<S>(map, shape, 64, 3);
    }
    for (const Map& other : maps_of_all_kinds()) check_weight_grad<S>(other, Shape{5, 8}, 64);
    check_weight_grad<S>(Map{{}, 0, 100, 27, -1}, Shape{4, 9}, 64);
    check_weight_grad<S>(Map{{}, 0, 0, 27, -1}, Shape{4, 9}, 64);
  });
}

TEST(weight_gradients_over_many_sweeps_of_tiles) {
  const Coords coords = lidar_surface(76, 24, 300, 0.2);
  const Map map = strided_map(coords, cubic(2, 2, 1, 0));
  CHECK(map.num_in * (67 + 65) * 4 > 2 * (int64_t{1} << 20));
  check_weight_grad<float>(map, Shape{67, 65}, 64, 3);
  check_weight_grad<BFloat16>(map, Shape{67, 65}, 256);
}

template <class S>
void check_channelwise(const Map& map, int channels, bool has_weight, bool has_bias) {
  const check::Note note(channels, " channels, weight ", has_weight, ", bias ", has_bias);
  Random random(77);
  const std::vector<S> feats = random_values<S>(random, map.num_in * channels);
  const std::vector<S> grad_out = random_values<S>(random, map.num_out * channels);
  const std::vector<S> weight = random_values<S>(random, int64_t{map.kernel_volume} * channels);
  const std::vector<S> bias = random_values<S>(random, channels);
  Sums expected(size_of(grad_out));
  Sums expected_grad(size_of(weight));
  for (int64_t i = 0; has_bias && i < size_of(grad_out); ++i) {
    expected.add(i, exact(at(bias, i % channels)));
  }
  for (const Pair& pair : map.pairs) {
    for (int64_t c = 0; c < channels; ++c) {
      const double x = exact(at(feats, int64_t{pair.in} * channels + c));
      const int64_t w = int64_t{pair.tap} * channels + c;
      const int64_t y = int64_t{pair.out} * channels + c;
      expected.add(y, x, has_weight ? exact(at(weight, w)) : 1.0);
      expected_grad.add(w, x, exact(at(grad_out, y)));
    }
  }
  std::vector<S> first_grad;
  for_each_table([&](const cpu::SimdKernels& table) {
    std::vector<S> first;
    const bool is_varied = channels == 3;
    for (const int64_t tile_rows : {64, 7, 1024}) {
      if (tile_rows != 64 && !is_varied) continue;
      const OwnedPairs pairs = pairs_of(map.pairs, map.num_out, map.kernel_volume, tile_rows);
      const int max_threads = tile_rows == 64 && is_varied ? 3 : 1;
      for (int threads = 1; threads <= max_threads; ++threads) {
        std::vector<S> out(grad_out.size(), S(777));
        const cpu::ChannelwiseTask<S> task{pairs.tiles(),
                                           feats.data(),
                                           out.data(),
                                           has_weight ? weight.data() : nullptr,
                                           has_bias ? bias.data() : nullptr,
                                           channels};
        cpu::channelwise_conv(task, table, threads);
        if (first.empty()) {
          expected.expect<S>(out);
          first = out;
        }
        CHECK(same_bits(out, first));
        std::vector<S> grad(weight.size(), S(777));
        cpu::channelwise_weight_grad(pairs.tiles(), feats.data(), grad_out.data(), channels,
                                     grad.data(), threads);
        if (first_grad.empty()) {
          expected_grad.expect<S>(grad);
          first_grad = grad;
        }
        CHECK(same_bits(grad, first_grad));
      }
    }
  });
}

TEST(channelwise_convolution_and_its_gradient) {
  std::vector<Map> maps = maps_of_all_kinds();
  maps.push_back(Map{{}, 0, 100, 27, -1});
  for (const Map& map : maps) {
    for (const int channels : {1, 3, 16, 33}) {
      check_channelwise<float>(map, channels, true, channels > 3);
      check_channelwise<double>(map, channels, channels > 3, true);
      check_channelwise<float>(map, channels, false, false);
    }
  }
}

TEST(panels_cover_the_channels_once) {
  for (const int lanes : {2, 4, 8, 16}) {
    for (const int max_vectors : {1, 3, 4}) {
      for (int channels = 1; channels <= 300; ++channels) {
        const cpu::Panels panels(channels, lanes, max_vectors);
        CHECK(panels.padded() >= channels && panels.padded() < channels + lanes);
        int next = 0;
        for (int panel = 0; panel < panels.count; ++panel) {
          CHECK_EQ(panels.first(panel), next);
          CHECK(panels.width(panel) >= 1 && panels.width(panel) <= max_vectors);
          next += panels.width(panel);
        }
        CHECK_EQ(next * lanes, panels.padded());
      }
    }
  }
}

TEST(tiles_grow_with_the_map) {
  int64_t previous = 0;
  for (int64_t rows = 0; rows < 300000; rows += 37) {
    const int64_t tile_rows = cpu::tile_rows_for(rows);
    CHECK(tile_rows >= 64 && tile_rows <= 1024 && tile_rows >= previous);
    previous = tile_rows;
  }
  CHECK_EQ(cpu::tile_rows_for(0), int64_t{64});
  CHECK_EQ(previous, int64_t{1024});
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
