// SPDX-License-Identifier: MIT
// Reductions over rows against loops in double: pooling, segments, interpolation, columns.
#include "cpu/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "maps.h"
#include "numbers.h"
#include "reductions.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3};
constexpr int kChannels[] = {1, 3, 16, 67};

/// The first of the largest; NaN is larger than everything.
struct Largest {
  double value = 0;
  int64_t row = -1;

  void offer(double candidate, int64_t from) {
    const bool wins = row < 0 || (std::isnan(candidate) ? !std::isnan(value) : candidate > value);
    if (!wins) return;
    value = candidate;
    row = from;
  }

  template <class T>
  bool is(T found) const {
    return std::isnan(value) ? std::isnan(found) : static_cast<double>(found) == value;
  }
};

template <class T>
void check_max_pool(const PoolMap& map, int64_t channels) {
  const std::vector<T> feats = coarse_values<T>(82, map.num_in * channels);
  const std::vector<T> grad_out = seeded_values<T>(83, map.num_out * channels);
  std::vector<Largest> largest(grad_out.size());
  for (const Pair& pair : sorted(map.pairs, row_major)) {
    for (int64_t c = 0; c < channels; ++c) {
      const double candidate = static_cast<double>(at(feats, pair.in * channels + c));
      at(largest, pair.out * channels + c).offer(candidate, pair.in);
    }
  }
  Sums grad(map.num_in * channels);
  for (int64_t i = 0; i < size_of(largest); ++i) {
    const int64_t from = at(largest, i).row;
    if (from >= 0) grad.add(from * channels + i % channels, static_cast<double>(at(grad_out, i)));
  }
  const OwnedPairs pairs = pairs_of(map.pairs, map.num_out, map.kernel_volume, 64);
  const OwnedPairs transposed = pairs_of(reversed(map.pairs), map.num_in, map.kernel_volume, 64);
  std::vector<T> first_grad;
  for (const int threads : kThreadCounts) {
    std::vector<T> out(grad_out.size(), T(777));
    std::vector<int32_t> argmax(grad_out.size(), 777);
    cpu::max_pool(pairs.tiles(), feats.data(), channels, out.data(), argmax.data(), threads);
    for (size_t i = 0; i < out.size(); ++i) {
      CHECK(largest[i].is(out[i]));
      CHECK_EQ(int64_t{argmax[i]}, largest[i].row);
    }
    std::vector<T> grad_in(feats.size(), T(777));
    cpu::max_pool_backward(transposed.tiles(), grad_out.data(), argmax.data(), channels,
                           grad_in.data(), threads);
    grad.expect<T>(grad_in);
    if (threads == 1) first_grad = grad_in;
    CHECK(same_bits(grad_in, first_grad));
  }
}

TEST(the_first_largest_input_wins_the_pool_and_gets_the_gradient) {
  for (const PoolMap& map : pool_maps()) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows");
    for_float_and_double([&](auto tag) {
      for (const int64_t channels : kChannels) check_max_pool<decltype(tag)>(map, channels);
    });
  }
}

TEST(max_pool_by_hand) {
  const float n = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Pair> pairs{{0, 0, 0}, {1, 1, 0}, {2, 2, 0}, {1, 2, 1}};
  const std::vector<float> feats{-5, 1, n, -7, 4, 2, -5, 4, n};
  const OwnedPairs lists = pairs_of(pairs, 3, 3, 64);
  std::vector<float> out(9, 777);
  std::vector<int32_t> argmax(9, 777);
  cpu::max_pool(lists.tiles(), feats.data(), 3, out.data(), argmax.data(), 1);
  CHECK_EQ(argmax, (std::vector<int32_t>{0, 1, 0, 2, 2, 2, -1, -1, -1}));
  CHECK(out[0] == -5 && out[1] == 4 && std::isnan(out[2]));
  CHECK(out[3] == -5 && out[4] == 4 && std::isnan(out[5]));
  CHECK(out[6] == 0 && out[7] == 0 && out[8] == 0);
}

template <class T>
void check_segments(const RowGroups& segments, int64_t channels) {
  const int64_t rows = size_of(segments.order);
  const std::vector<T> feats = seeded_values<T>(84, rows * channels);
  const std::vector<T> odd = coarse_values<T>(85, rows * channels);
  Sums sum(segments.count() * channels);
  Sums mean(segments.count() * channels);
  std::vector<Largest> largest(sum.sum.size());
  for (int64_t segment = 0; segment < segments.count(); ++segment) {
    const int64_t begin = at(segments.ptr, segment);
    const int64_t end = at(segments.ptr, segment + 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = at(segments.order, i);
      for (int64_t c = 0; c < channels; ++c) {
        const double value = static_cast<double>(at(feats, row * channels + c));
        sum.add(segment * channels + c, value);
        mean.add(segment * channels + c, value / static_cast<double>(end - begin));
        const double candidate = static_cast<double>(at(odd, row * channels + c));
        at(largest, segment * channels + c).offer(candidate, row);
      }
    }
  }
  std::vector<T> first_sum;
  for (const int threads : kThreadCounts) {
    std::vector<T> out(sum.sum.size(), T(777));
    std::vector<int64_t> argmax(sum.sum.size(), 777);
    const auto reduce = [&](const std::vector<T>& values, Reduce how) {
      int64_t* const where = how == Reduce::kMax ? argmax.data() : nullptr;
      cpu::segment_reduce(values.data(), segments.order.data(), segments.ptr.data(),
                          segments.count(), channels, how, out.data(), where, threads);
    };
    reduce(feats, Reduce::kMean);
    mean.expect<T>(out);
    reduce(odd, Reduce::kMax);
    for (size_t i = 0; i < out.size(); ++i) {
      CHECK(largest[i].is(out[i]));
      CHECK_EQ(argmax[i], largest[i].row);
    }
    reduce(feats, Reduce::kSum);
    sum.expect<T>(out);
    if (threads == 1) first_sum = out;
    CHECK(same_bits(out, first_sum));
  }
}

TEST(segments_are_summed_averaged_and_searched) {
  for (const int64_t rows : {0, 1, 50, 3000}) {
    const check::Note note(rows, " rows");
    for_float_and_double([&](auto tag) {
      for (const int64_t channels : kChannels) {
        check_segments<decltype(tag)>(RowGroups(86, rows), channels);
      }
    });
  }
}

TEST(a_long_sum_loses_no_digits) {
  constexpr int64_t kRows = 200000;  // float32 sums would lose digits
  const std::vector<float> feats(kRows, 0.1f);
  std::vector<int64_t> order;
  for (int64_t row = 0; row < kRows; ++row) order.push_back(row);
  const int64_t ptr[2] = {0, kRows};
  float mean = 0;
  cpu::segment_reduce(feats.data(), order.data(), ptr, 1, 1, Reduce::kMean, &mean, nullptr, 1);
  CHECK_EQ(mean, 0.1f);
}

template <class T>
void check_interpolation(int64_t rows, int64_t count, int64_t terms, int64_t channels) {
  Random random(87);
  const std::vector<T> feats = seeded_values<T>(88, rows * channels);
  const std::vector<T> weight = seeded_values<T>(89, count * terms);
  const std::vector<T> grad_out = seeded_values<T>(90, count * channels);
  std::vector<int64_t> index;
  for (int64_t i = 0; i < count * terms; ++i) index.push_back(random.integer(-1, rows - 1));
  Sums expected(count * channels);
  Sums expected_grad(rows * channels);
  for (int64_t j = 0; j < count * terms; ++j) {
    if (at(index, j) < 0) continue;
    for (int64_t c = 0; c < channels; ++c) {
      const double w = static_cast<double>(at(weight, j));
      const int64_t from = at(index, j) * channels + c;
      const int64_t to = j / terms * channels + c;
      expected.add(to, w * static_cast<double>(at(feats, from)));
      expected_grad.add(from, w * static_cast<double>(at(grad_out, to)));
    }
  }
  std::vector<T> first;
  std::vector<T> first_grad;
  for (const int threads : kThreadCounts) {
    std::vector<T> out(grad_out.size(), T(777));
    cpu::interpolate(feats.data(), index.data(), weight.data(), count, terms, channels, out.data(),
                     threads);
    expected.expect<T>(out);
    std::vector<T> grad(feats.size(), T(777));
    cpu::interpolate_backward(grad_out.data(), index.data(), weight.data(), count, terms, rows,
                              channels, grad.data(), threads);
    expected_grad.expect<T>(grad);
    if (threads == 1) {
      first = out;
      first_grad = grad;
    }
    CHECK(same_bits(out, first) && same_bits(grad, first_grad));
  }
}

TEST(interpolation_and_its_adjoint) {
  for_float_and_double([&](auto tag) {
    using T = decltype(tag);
    for (const int64_t channels : kChannels) {
      check_interpolation<T>(400, 1000, 8, channels);
      check_interpolation<T>(3, 500, 1, channels);
      check_interpolation<T>(1000, 10, 3, channels);
      check_interpolation<T>(0, 20, 8, channels);
      check_interpolation<T>(20, 0, 8, channels);
    }
  });
}

template <class S>
void check_columns(int64_t rows, int64_t channels) {
  const std::vector<S> a = seeded_values<S>(91, rows * channels);
  const std::vector<S> b = seeded_values<S>(92, rows * channels);
  Sums sum(channels);
  Sums product(channels);
  for (int64_t i = 0; i < rows * channels; ++i) {
    sum.add(i % channels, exact(at(a, i)));
    product.add(i % channels, exact(at(a, i)), exact(at(b, i)));
  }
  std::vector<double> first;
  for (const int threads : kThreadCounts) {
    std::vector<double> sums(static_cast<size_t>(channels), 777);
    std::vector<double> products(sums);
    const S* const nothing = nullptr;
    cpu::column_sums(a.data(), nothing, rows, channels, sums.data(), nullptr, threads);
    sum.expect<double>(sums);
    const std::vector<double> alone(sums);
    cpu::column_sums(a.data(), b.data(), rows, channels, sums.data(), products.data(), threads);
    product.expect<double>(products);
    CHECK(same_bits(sums, alone));
    if (threads == 1) first = products;
    CHECK(same_bits(products, first));
  }
}

template <class S>
void check_moments(int64_t rows, int64_t channels, double offset) {
  std::vector<S> feats = seeded_values<S>(93, rows * channels);
  for (S& value : feats) value = stored(exact(value) + offset, S{});
  const double count = static_cast<double>(std::max<int64_t>(rows, 1));
  std::vector<double> mean(static_cast<size_t>(channels), 0.0);
  std::vector<double> variance(mean);
  for (int64_t i = 0; i < rows * channels; ++i) {
    at(mean, i % channels) += (exact(at(feats, i)) - offset) / count;
  }
  for (int64_t i = 0; i < rows * channels; ++i) {
    const double distance = exact(at(feats, i)) - offset - at(mean, i % channels);
    at(variance, i % channels) += distance * distance / count;
  }
  std::vector<double> first;
  for (const int threads : kThreadCounts) {
    std::vector<double> found_mean(mean.size(), 777);
    std::vector<double> found_variance(mean.size(), 777);
    cpu::column_moments(feats.data(), rows, channels, found_mean.data(), found_variance.data(),
                        threads);
    for (size_t c = 0; c < mean.size(); ++c) {
      const double expected_mean = rows == 0 ? 0.0 : mean[c] + offset;
      CHECK(std::fabs(found_mean[c] - expected_mean) <= 1e-12 * (1.0 + std::fabs(offset)));
      CHECK(std::fabs(found_variance[c] - variance[c]) <= 1e-11 * (1.0 + variance[c]));
      CHECK(found_variance[c] >= 0);
    }
    if (threads == 1) first = found_variance;
    CHECK(same_bits(found_variance, first));
  }
}

template <class S>
void check_scale_shift(int64_t rows, int64_t channels) {
  using A = SumType<S>;
  const std::vector<S> x = seeded_values<S>(94, rows * channels);
  const std::vector<S> other = seeded_values<S>(95, rows * channels);
  const std::vector<A> scale = seeded_values<A>(96, channels);
  const std::vector<A> other_scale = seeded_values<A>(97, channels);
  const std::vector<A> shift = seeded_values<A>(98, channels);
  for (const bool has_other : {false, true}) {
    for (const bool has_shift : {false, true}) {
      Sums expected(rows * channels);
      for (int64_t i = 0; i < rows * channels; ++i) {
        const int64_t c = i % channels;
        expected.add(i, exact(at(x, i)), exact(at(scale, c)));
        if (has_other) expected.add(i, exact(at(other, i)), exact(at(other_scale, c)));
        if (has_shift) expected.add(i, exact(at(shift, c)));
      }
      std::vector<S> first;
      for (const int threads : kThreadCounts) {
        std::vector<S> out(x.size(), stored(777.0, S{}));
        ScaleShift<S> task{{x.data(), scale.data()}, {}, nullptr, out.data(), rows, channels};
        if (has_other) task.b = {other.data(), other_scale.data()};
        if (has_shift) task.shift = shift.data();
        cpu::scale_shift(task, threads);
        expected.expect<A>(out);
        if (threads == 1) first = out;
        CHECK(same_bits(out, first));
      }
    }
  }
}

/// run(type tag) for the types that column operators know.
template <class Run>
void for_each_column_type(const Run& run) {
  for_float_and_double(run);
  const check::Note note("bfloat16");
  run(BFloat16{});
}

TEST(columns_are_summed_and_their_moments_keep_their_digits) {
  for_each_column_type([&](auto tag) {
    using S = decltype(tag);
    for (const int64_t channels : kChannels) {
      for (const int64_t rows : {0, 1, 2, 255, 256, 257, 5000}) {
        const check::Note note(rows, " rows, ", channels, " channels");
        check_columns<S>(rows, channels);
        check_moments<S>(rows, channels, 0.0);
        check_moments<S>(rows, channels, 1e4);
      }
    }
  });
}

TEST(columns_are_scaled_and_shifted) {
  for_each_column_type([&](auto tag) {
    for (const int64_t channels : kChannels) {
      for (const int64_t rows : {0, 1, 1000}) check_scale_shift<decltype(tag)>(rows, channels);
    }
  });
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
