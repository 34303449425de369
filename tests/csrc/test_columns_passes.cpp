// SPDX-License-Identifier: MIT
// The passes over whole columns that a GPU runs, on the CPU, against the CPU's own operators.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cpu/reduce.h"
#include "executor.h"
#include "kernels/columns.h"
#include "reductions.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2};
constexpr int64_t kRowCounts[] = {0, 1, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025};
constexpr int64_t kChannels[] = {1, 3, 32, 65};

/// Sums in double of terms whose magnitudes are known.
void expect_sums(const std::vector<double>& found, const std::vector<double>& expected,
                 const std::vector<double>& magnitude, double error) {
  for (size_t c = 0; c < expected.size(); ++c) {
    const check::Note note("column ", c);
    if (!(std::fabs(found[c] - expected[c]) <= error * magnitude[c])) {
      CHECK_EQ(found[c], expected[c]);
    }
  }
}

template <class S>
void check_columns(const std::vector<S>& a, const std::vector<S>& b, int64_t rows,
                   int64_t channels) {
  using A = SumType<S>;
  const check::Note note(rows, " rows, ", channels, " channels");
  const std::vector<A> wide_a = all_widened(a);
  const std::vector<A> wide_b = all_widened(b);
  const std::vector<double> empty(static_cast<size_t>(channels), 777.0);
  std::vector<double> sum(empty), product(empty), mean(empty), variance(empty);
  cpu::column_sums(wide_a.data(), wide_b.data(), rows, channels, sum.data(), product.data(), 1);
  cpu::column_moments(wide_a.data(), rows, channels, mean.data(), variance.data(), 1);
  std::vector<double> sizes(empty.size(), 0.0), products(sizes), spreads(sizes);
  for (int64_t i = 0; i < rows * channels; ++i) {
    const double x = exact(at(a, i));
    at(sizes, i % channels) += std::fabs(x);
    at(products, i % channels) += std::fabs(x * exact(at(b, i)));
    const double distance = x - exact(at(a, i % channels));
    at(spreads, i % channels) += distance * distance / static_cast<double>(rows);
  }
  constexpr double kError = std::is_same_v<S, double> ? 1e-13 : 0x1p-44;
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      std::vector<double> alone(empty), sums(empty), of_products(empty), means(empty);
      std::vector<double> variances(empty);
      Executor executor(threads);
      column_sums<kWidth>(executor,
                          ColumnSums<S>{a.data(), nullptr, alone.data(), nullptr, rows, channels});
      column_sums<kWidth>(executor, ColumnSums<S>{a.data(), b.data(), sums.data(),
                                                  of_products.data(), rows, channels});
      column_moments<kWidth>(
          executor, ColumnMoments<S>{a.data(), means.data(), variances.data(), rows, channels});
      CHECK_EQ(executor.waits(), 0);
      CHECK(same_bits(alone, sums));
      expect_sums(sums, sum, sizes, kError);
      expect_sums(of_products, product, products, kError);
      expect_sums(means, mean, sizes, kError);
      expect_sums(variances, variance, spreads, 4 * kError);
      for (const double value : variances) CHECK(value >= 0);
    });
  }
}

TEST(columns_are_summed_and_their_moments_keep_their_digits) {
  for_each_type([](auto tag) {
    using S = decltype(tag);
    const auto check_rows = [](int64_t rows, int64_t channels) {
      std::vector<S> a = seeded_values<S>(116, rows * channels);
      const std::vector<S> b = seeded_values<S>(117, rows * channels);
      check_columns(a, b, rows, channels);
      for (S& value : a) value = stored(exact(value) + 1e4, S{});
      check_columns(a, b, rows, channels);
      if (rows > 0) a[0] = stored(-3e4, S{});  // moments are taken from the first row
      check_columns(a, b, rows, channels);
    };
    for (const int64_t channels : kChannels) {
      for (const int64_t rows : kRowCounts) check_rows(rows, channels);
    }
    check_rows(4096, 8);
    check_rows(13000, 3);
  });
}

template <class S>
void check_scale_shift(int64_t rows, int64_t channels, bool is_exact, bool has_other,
                       bool has_shift) {
  using A = SumType<S>;
  const auto values = is_exact ? coarse_values<S> : seeded_values<S>;
  const auto factors = is_exact ? coarse_values<A> : seeded_values<A>;
  const std::vector<S> x = values(118, rows * channels);
  const std::vector<S> other = values(119, rows * channels);
  const std::vector<A> wide_x = all_widened(x);
  const std::vector<A> wide_other = all_widened(other);
  const std::vector<A> scale = factors(120, channels);
  const std::vector<A> other_scale = factors(121, channels);
  const std::vector<A> shift = factors(122, channels);
  Sums sums(rows * channels);
  for (int64_t i = 0; i < rows * channels; ++i) {
    const int64_t c = i % channels;
    sums.add(i, exact(at(x, i)), exact(at(scale, c)));
    if (has_other) sums.add(i, exact(at(other, i)), exact(at(other_scale, c)));
    if (has_shift) sums.add(i, exact(at(shift, c)));
  }
  std::vector<A> expected(x.size());
  std::vector<S> out(x.size());
  ScaleShift<A> wide{{wide_x.data(), scale.data()}, {}, nullptr, expected.data(), rows, channels};
  ScaleShift<S> task{{x.data(), scale.data()}, {}, nullptr, out.data(), rows, channels};
  if (has_other) {
    wide.b = {wide_other.data(), other_scale.data()};
    task.b = {other.data(), other_scale.data()};
  }
  if (has_shift) wide.shift = task.shift = shift.data();
  cpu::scale_shift(wide, 1);
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      std::fill(out.begin(), out.end(), stored(777, S{}));
      Executor(threads).for_each(rows * (channels / kWidth), ScaleAndShift<S, kWidth>{task});
      if (is_exact) expect_close(out, all_narrowed<S>(expected), 0);
      // Compilers may fuse products into sums in one of the two and not in the other.
      if (!is_exact) sums.template expect<A>(out);
    });
  }
}

TEST(scaled_columns_are_those_of_the_cpu) {
  for_each_type([](auto tag) {
    for (const int64_t channels : kChannels) {
      for (const int64_t rows : {0, 1, 33, 1025}) {
        for (const int which : {0, 1, 2, 3, 4, 5, 6, 7}) {
          check_scale_shift<decltype(tag)>(rows, channels, which & 1, which & 2, which & 4);
        }
      }
    }
  });
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
