// SPDX-License-Identifier: MIT
// The passes over kernel maps that a GPU runs, on the CPU, against the CPU's own operators: tables
// of pairs, windowed maxima, channelwise convolution and their gradients.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/reduce.h"
#include "cpu/sparse_conv.h"
#include "executor.h"
#include "kernels/channelwise_conv.h"
#include "kernels/max_pool.h"
#include "kernels/pair_table.h"
#include "maps.h"
#include "reductions.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2};
constexpr int64_t kChannels[] = {1, 3, 32, 65};
constexpr int64_t kTileRows = 64;

CheckedPairs tiled(const OwnedPairs& lists, int64_t num_in) {
  const int64_t tiles = (lists.num_out + lists.tile_rows - 1) / lists.tile_rows;
  return CheckedPairs{lists.in_index.data(),   lists.out_index.data(),
                      lists.tile_ptr.data(),   lists.tile_ptr.data() + tiles * lists.kernel_volume,
                      size_of(lists.in_index), num_in,
                      lists.num_out,           lists.kernel_volume};
}

/// Windows of all kinds, and submanifold maps of ragged sizes.
std::vector<PoolMap> maps() {
  std::vector<PoolMap> maps = pool_maps();
  const Coords surface = lidar_surface(131, 24, 160, 0.8);
  const auto submanifold = [&](int64_t rows, const ConvGeometry& g) {
    const Coords coords(surface.begin(), surface.begin() + rows);
    maps.push_back(PoolMap{brute_force_pairs(coords, coords, g), rows, rows, g.kernel_volume()});
  };
  CHECK(size_of(surface) > 1025);
  for (const int64_t rows : {0, 1, 31, 32, 33, 1023, 1024, 1025})
    submanifold(rows, cubic(3, 1, 1, 1));
  submanifold(300, cubic(5, 1, 1, 2));
  return maps;
}

TEST(tables_of_pairs_hold_the_same_pairs) {
  for (const PoolMap& map : maps()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows");
    const OwnedPairs lists = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
    const OwnedTable expected = table_of(map.pairs, map.num_out, map.kernel_volume);
    for (const int threads : kThreadCounts) {
      Executor executor(threads);
      const NeighborTable found = table_of_pairs(executor, tiled(lists, map.num_in));
      CHECK_EQ(executor.waits(), 0);
      CHECK_EQ(found.words, expected.words);
      CHECK(std::equal(expected.mask.begin(), expected.mask.end(), found.mask));
      CHECK(std::equal(expected.ptr.begin(), expected.ptr.end(), found.ptr));
      CHECK(std::equal(expected.rows.begin(), expected.rows.end(), found.rows));
    }
  }
}

template <class S>
void check_max_pool(const PoolMap& map, int64_t channels) {
  using A = SumType<S>;
  const std::vector<S> feats = coarse_values<S>(132, map.num_in * channels);
  const std::vector<S> grad_out = seeded_values<S>(133, map.num_out * channels);
  const OwnedPairs lists = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
  const OwnedPairs back = pairs_of(reversed(map.pairs), map.num_in, map.kernel_volume, kTileRows);
  std::vector<A> expected(grad_out.size());
  std::vector<int32_t> rows(grad_out.size());
  std::vector<A> expected_grad(feats.size());
  cpu::max_pool(lists.tiles(), all_widened(feats).data(), channels, expected.data(), rows.data(),
                1);
  cpu::max_pool_backward(back.tiles(), all_widened(grad_out).data(), rows.data(), channels,
                         expected_grad.data(), 1);
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      Executor executor(threads);
      std::vector<S> out(grad_out.size(), stored(777, S{}));
      std::vector<int32_t> argmax(grad_out.size(), 777);
      max_pool<kWidth>(executor, MaxPool<S>{tiled(lists, map.num_in), feats.data(), out.data(),
                                            argmax.data(), channels});
      expect_close(out, all_narrowed<S>(expected), 0);
      CHECK_EQ(argmax, rows);
      std::vector<S> grad(feats.size(), stored(777, S{}));
      max_pool_backward<kWidth>(
          executor, MaxPoolBackward<S>{tiled(back, map.num_out), grad_out.data(), argmax.data(),
                                       grad.data(), channels});
      CHECK(same_bits(grad, all_narrowed<S>(expected_grad)));
      CHECK_EQ(executor.waits(), 0);
    });
  }
}

TEST(maxima_and_their_gradients_are_those_of_the_cpu) {
  for (const PoolMap& map : maps()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows, ", map.kernel_volume, " taps");
    for_each_type([&](auto tag) {
      for (const int64_t channels : kChannels) check_max_pool<decltype(tag)>(map, channels);
    });
  }
}

/// What a convolution is given besides its input.
struct Extras {
  bool weight, bias, residual, relu;
};

template <class S>
struct ConvCase {
  std::vector<S> feats, weight, bias, residual;

  ConvCase(const PoolMap& map, int64_t channels, bool is_exact) {
    const auto values = is_exact ? coarse_values<S> : seeded_values<S>;
    feats = values(134, map.num_in * channels);
    weight = values(135, map.kernel_volume * channels);
    bias = values(136, channels);
    residual = values(137, map.num_out * channels);
  }
};

/// On the CPU, in the type of the sums.
template <class S>
std::vector<S> convolved(const OwnedPairs& lists, const ConvCase<S>& given, int64_t channels,
                         const Extras& extras) {
  using A = SumType<S>;
  const ConvCase<S>& g = given;
  const std::vector<A> feats = all_widened(g.feats), weight = all_widened(g.weight);
  const std::vector<A> bias = all_widened(g.bias), residual = all_widened(g.residual);
  std::vector<A> out(residual.size());
  const cpu::ChannelwiseTask<A> task{lists.tiles(),
                                     feats.data(),
                                     out.data(),
                                     extras.weight ? weight.data() : nullptr,
                                     extras.bias ? bias.data() : nullptr,
                                     static_cast<int>(channels)};
  cpu::channelwise_conv(task, *all_simd_kernels().back(), 2,
                        cpu::Epilogue<A>{extras.residual ? residual.data() : nullptr, extras.relu});
  return all_narrowed<S>(out);
}

template <class S>
Sums sums_of(const PoolMap& map, const ConvCase<S>& given, int64_t channels, const Extras& extras) {
  Sums sums(map.num_out * channels);
  for (int64_t i = 0; i < map.num_out * channels; ++i) {
    if (extras.bias) sums.add(i, exact(at(given.bias, i % channels)));
    if (extras.residual) sums.add(i, exact(at(given.residual, i)));
  }
  for (const Pair& pair : map.pairs) {
    for (int64_t c = 0; c < channels; ++c) {
      const double w = extras.weight ? exact(at(given.weight, pair.tap * channels + c)) : 1.0;
      sums.add(pair.out * channels + c, exact(at(given.feats, pair.in * channels + c)), w);
    }
  }
  for (double& sum : sums.sum) sum = extras.relu ? std::max(sum, 0.0) : sum;
  return sums;
}

template <class S>
void check_conv(const PoolMap& map, int64_t channels, const Extras& extras, bool is_exact) {
  const ConvCase<S> given(map, channels, is_exact);
  const OwnedPairs lists = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
  const std::vector<S> expected = convolved(lists, given, channels, extras);
  const Sums sums = sums_of(map, given, channels, extras);
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      Executor executor(threads);
      std::vector<S> out(expected.size(), stored(777, S{}));
      channelwise_conv<decltype(width)::value>(
          executor, ChannelwiseConv<S>{tiled(lists, map.num_in), given.feats.data(),
                                       extras.weight ? given.weight.data() : nullptr,
                                       extras.bias ? given.bias.data() : nullptr,
                                       extras.residual ? given.residual.data() : nullptr,
                                       out.data(), channels, extras.relu});
      CHECK_EQ(executor.waits(), 0);
      if (is_exact) expect_close(out, expected, 0);
      // The CPU's kernels fuse products into sums where its processor can.
      if (!is_exact) sums.template expect<SumType<S>>(out);
    });
  }
}

TEST(channelwise_convolutions_are_those_of_the_cpu) {
  const Extras kinds[] = {{false, false, false, false},
                          {true, false, false, false},
                          {true, true, false, true},
                          {true, true, true, true},
                          {true, false, true, false}};
  for (const PoolMap& map : maps()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows, ", map.kernel_volume, " taps");
    for_each_type([&](auto tag) {
      for (const int64_t channels : kChannels) {
        check_conv<decltype(tag)>(map, channels, kinds[3], true);
        check_conv<decltype(tag)>(map, channels, kinds[3], false);
        if (channels != 3) continue;
        for (const Extras& extras : kinds) check_conv<decltype(tag)>(map, 3, extras, true);
      }
    });
  }
}

template <class S>
void check_weight_grad(const PoolMap& map, int64_t channels, bool is_exact) {
  using A = SumType<S>;
  const ConvCase<S> given(map, channels, is_exact);
  const std::vector<S>& grad_out = given.residual;
  const OwnedPairs lists = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
  std::vector<A> expected(given.weight.size());
  cpu::channelwise_weight_grad(lists.tiles(), all_widened(given.feats).data(),
                               all_widened(grad_out).data(), static_cast<int>(channels),
                               expected.data(), 1);
  Sums sums(size_of(expected));
  for (const Pair& pair : map.pairs) {
    for (int64_t c = 0; c < channels; ++c) {
      sums.add(pair.tap * channels + c, exact(at(given.feats, pair.in * channels + c)),
               exact(at(grad_out, pair.out * channels + c)));
    }
  }
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      Executor executor(threads);
      std::vector<A> grad(expected.size(), A(777));
      channelwise_weight_grad<decltype(width)::value>(
          executor, ChannelwiseWeightGrad<S>{tiled(lists, map.num_in), given.feats.data(),
                                             grad_out.data(), grad.data(), channels});
      CHECK_EQ(executor.waits(), 0);
      if (is_exact) expect_close(grad, expected, 0);
      if (!is_exact) sums.template expect<A>(grad);
    });
  }
}

TEST(gradients_of_channelwise_weights_are_those_of_the_cpu) {
  for (const PoolMap& map : maps()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows, ", map.kernel_volume, " taps");
    for_each_type([&](auto tag) {
      for (const int64_t channels : kChannels) {
        check_weight_grad<decltype(tag)>(map, channels, true);
        check_weight_grad<decltype(tag)>(map, channels, false);
      }
    });
  }
}

TEST(pairs_that_do_not_belong_are_refused) {
  const PoolMap map = pool_maps()[2];
  const OwnedPairs good = pairs_of(map.pairs, map.num_out, map.kernel_volume, kTileRows);
  const auto table_refuses = [&](const OwnedPairs& lists) {
    return is_refused([&] {
      Executor executor(1);
      table_of_pairs(executor, tiled(lists, map.num_in));
    });
  };
  const auto sum_refuses = [&](const OwnedPairs& lists) {
    return is_refused([&] {
      Executor executor(1);
      const std::vector<float> values(static_cast<size_t>(map.num_in));
      std::vector<float> grad(static_cast<size_t>(map.kernel_volume));
      channelwise_weight_grad<1>(
          executor, ChannelwiseWeightGrad<float>{tiled(lists, map.num_in), values.data(),
                                                 values.data(), grad.data(), 1});
    });
  };
  CHECK(!table_refuses(good) && !sum_refuses(good));
  const auto check_refused = [&](const char* name, const auto& spoil, bool is_sum_too) {
    const check::Note note(name);
    OwnedPairs lists = good;
    spoil(lists);
    CHECK(table_refuses(lists));
    CHECK_EQ(sum_refuses(lists), is_sum_too);
  };
  const int32_t num_in = static_cast<int32_t>(map.num_in);
  const int32_t num_out = static_cast<int32_t>(map.num_out);
  check_refused("in", [&](OwnedPairs& lists) { lists.in_index.back() = num_in; }, true);
  check_refused("in below", [&](OwnedPairs& lists) { lists.in_index[7] = -1; }, true);
  check_refused("out", [&](OwnedPairs& lists) { lists.out_index[0] = num_out; }, true);
  check_refused("out below", [&](OwnedPairs& lists) { lists.out_index.back() = INT32_MIN; }, true);
  check_refused(
      "twice", [&](OwnedPairs& lists) { lists.out_index[1] = lists.out_index[0]; }, false);
  check_refused(
      "descends", [&](OwnedPairs& lists) { std::swap(lists.out_index[0], lists.out_index[1]); },
      false);
  check_refused("begin", [&](OwnedPairs& lists) { lists.tile_ptr[0] = 1; }, true);
  check_refused("below", [&](OwnedPairs& lists) { lists.tile_ptr[1] = -1; }, true);
  check_refused("end", [&](OwnedPairs& lists) { ++lists.tile_ptr.back(); }, true);
  check_refused("far", [&](OwnedPairs& lists) { lists.tile_ptr[3] = int64_t{1} << 40; }, true);
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
