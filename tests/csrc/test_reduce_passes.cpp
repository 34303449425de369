// SPDX-License-Identifier: MIT
// The passes of reductions over rows that a GPU runs, on the CPU, against the CPU's own operators:
// the same numbers where both add in the same type and order, else their neighbours.
#include <cmath>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cpu/reduce.h"
#include "executor.h"
#include "kernels/interpolate.h"
#include "kernels/segment_reduce.h"
#include "reductions.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2};
constexpr int64_t kRowCounts[] = {0, 1, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025};
constexpr int64_t kChannels[] = {1, 3, 32, 65};

/// How far sums may lie from the CPU's: those in pairs of floats are neighbours of those in double;
/// those of doubles differ by their order. Terms are smaller than 1.
constexpr int64_t kNeighbors = 1;
constexpr double slack_of(int64_t terms) { return 1e-13 * static_cast<double>(terms); }

TEST(packs_are_as_wide_as_rows_and_addresses_allow) {
  alignas(16) float matrix[64];
  const auto width_of = [](int64_t channels, std::initializer_list<const void*> matrices) {
    int found = 0;
    with_width<float>(channels, matrices, [&](auto width) { found = width; });
    return found;
  };
  CHECK_EQ(width_of(32, {matrix, nullptr}), 4);
  CHECK_EQ(width_of(32, {matrix, matrix + 1}), 1);
  CHECK_EQ(width_of(33, {matrix}), 1);
  CHECK_EQ(kPackWidth<Float16>, 8);
  for (const int64_t packs : {int64_t{1}, int64_t{3}, int64_t{96}, int64_t{1} << 33}) {
    for (const int64_t item : {int64_t{0}, packs - 1, packs, 5 * packs + 2, int64_t{1} << 40}) {
      const Element at = element_of<4>(item, 4 * packs);
      CHECK_EQ(at.row, item / packs);
      CHECK_EQ(at.channel, item % packs * 4);
    }
  }
}

TEST(pairs_of_floats_keep_what_floats_lose) {
  constexpr int kBlocks = 5000;
  constexpr float kOrigin = 12345.678f;
  Random random(101);
  PairSum totals[4];
  double exact_totals[4] = {}, magnitudes[4] = {};
  for (int block = 0; block < kBlocks; ++block) {
    PairSum sums[4];
    for (int64_t i = 0; i < kBlockTerms; ++i) {
      const float a = static_cast<float>(random.real(-1e4, 1.1e4));
      const float b = static_cast<float>(random.real(0.9, 1.1));
      sums[0].add(a);
      sums[1].add_product(a, b);
      sums[2].add_distance(a, kOrigin, &sums[3]);
      const double distance = exact(a) - exact(kOrigin);
      const double terms[4] = {exact(a), exact(a) * exact(b), distance, distance * distance};
      for (int n = 0; n < 4; ++n) {
        exact_totals[n] += terms[n];
        magnitudes[n] += std::fabs(terms[n]);
      }
    }
    for (int n = 0; n < 4; ++n) totals[n].merge(sums[n]);
  }
  constexpr int64_t kTerms = kBlocks * kBlockTerms;
  for (int n = 0; n < 4; ++n) {
    const check::Note note("sum ", n);
    CHECK(std::fabs(totals[n].in_double() - exact_totals[n]) <= 0x1p-42 * magnitudes[n]);
    CHECK(are_close(totals[n].total(), static_cast<float>(exact_totals[n]), 1));
    CHECK(are_close(totals[n].mean(kTerms), static_cast<float>(exact_totals[n] / kTerms), 1));
  }
}

TEST(pairs_of_floats_know_infinity_and_nan) {
  const auto after = [](std::initializer_list<double> terms) {
    PairSum sum;
    for (const double term : terms) sum.add_product(static_cast<float>(term), 1.0f);
    CHECK(are_close(sum.total(), static_cast<float>(sum.in_double()), 0));
    CHECK(are_close(sum.mean(1), sum.total(), 0));
    PairSum merged;
    merged.merge(sum);
    CHECK(are_close(merged.total(), sum.total(), 0));
    return exact(sum.total());
  };
  CHECK_EQ(after({1, kInfinity, 2}), kInfinity);
  CHECK_EQ(after({-kInfinity, 3}), -kInfinity);
  CHECK(std::isnan(after({kInfinity, -kInfinity})));
  CHECK(std::isnan(after({kNan, 1})));
  CHECK_EQ(after({}), 0.0);
}

template <class S>
struct Reduced {
  std::vector<S> out;
  std::vector<int64_t> argmax;
};

template <class S>
Reduced<S> reduced_on_cpu(const RowGroups& groups, const std::vector<S>& feats, int64_t channels,
                          Reduce how) {
  using A = SumType<S>;
  const std::vector<A> wide = all_widened(feats);
  std::vector<A> out(static_cast<size_t>(groups.count() * channels));
  Reduced<S> result{{}, std::vector<int64_t>(out.size(), -9)};
  cpu::segment_reduce(wide.data(), groups.order.data(), groups.ptr.data(), groups.count(), channels,
                      how, out.data(), result.argmax.data(), 1);
  result.out = all_narrowed<S>(out);
  return result;
}

template <int kWidth, class S>
Reduced<S> reduced_by_passes(const RowGroups& groups, const std::vector<S>& feats, int64_t channels,
                             Reduce how, int threads) {
  const auto size = static_cast<size_t>(groups.count() * channels);
  Reduced<S> result{std::vector<S>(size, stored(777, S{})), std::vector<int64_t>(size, -9)};
  Executor executor(threads);
  segment_reduce<kWidth>(executor,
                         SegmentReduce<S>{feats.data(), groups.order.data(), groups.ptr.data(),
                                          result.out.data(), result.argmax.data(), groups.rows(),
                                          size_of(groups.order), groups.count(), channels, how});
  CHECK_EQ(executor.waits(), 0);
  return result;
}

template <class S>
void check_segments(const RowGroups& groups, int64_t channels) {
  const check::Note note(groups.rows(), " rows, ", channels, " channels");
  const std::vector<S> feats = seeded_values<S>(102, groups.rows() * channels);
  const std::vector<S> odd = coarse_values<S>(103, groups.rows() * channels);
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      const auto check_same = [&](const std::vector<S>& values, Reduce how, int64_t neighbors) {
        const Reduced<S> expected = reduced_on_cpu(groups, values, channels, how);
        const Reduced<S> found =
            reduced_by_passes<decltype(width)::value>(groups, values, channels, how, threads);
        expect_close(found.out, expected.out, neighbors,
                     neighbors == 0 ? 0.0 : slack_of(groups.rows()));
        if (how == Reduce::kMax) CHECK_EQ(found.argmax, expected.argmax);
      };
      check_same(odd, Reduce::kMax, 0);
      check_same(odd, Reduce::kSum, 0);  // whole numbers: exact in every type and order
      check_same(odd, Reduce::kMean, kNeighbors);
      const bool is_plain = std::is_same_v<S, double> && groups.rows() < kBlockTerms;
      check_same(feats, Reduce::kSum, is_plain ? 0 : kNeighbors);
      check_same(feats, Reduce::kMean, is_plain ? 0 : kNeighbors);
    });
  }
}

TEST(segments_are_those_of_the_cpu) {
  for_each_type([](auto tag) {
    for (const int64_t channels : kChannels) {
      for (const int64_t rows : kRowCounts) {
        check_segments<decltype(tag)>(RowGroups(104, rows), channels);
      }
      check_segments<decltype(tag)>(RowGroups::of_sizes(105, {63, 0, 64, 65, 1, 128, 191, 0, 0}),
                                    channels);
      check_segments<decltype(tag)>(RowGroups::of_sizes(106, {0, 0, 0, 0, 0}), channels);
    }
    check_segments<decltype(tag)>(RowGroups::of_sizes(107, {7, 4096, 4095, 3, 4160, 13000}), 8);
    check_segments<decltype(tag)>(RowGroups::of_sizes(108, {20000}), 1);
  });
}

TEST(a_segment_does_not_depend_on_its_neighbors) {
  const int64_t channels = 3;
  for (const int64_t size : {5, 64, 100, 9000}) {
    const RowGroups alone = RowGroups::of_sizes(109, {size});
    const std::vector<float> feats = seeded_values<float>(110, (size + 1000) * channels);
    const auto expected = reduced_by_passes<1>(alone, feats, channels, Reduce::kSum, 1).out;
    for (const int64_t before : {1, 63, 64, 777}) {
      RowGroups behind = RowGroups::of_sizes(111, {before, size});
      for (int64_t i = 0; i < size; ++i) at(behind.order, before + i) = at(alone.order, i);
      for (int64_t i = 0; i < before; ++i) at(behind.order, i) = size + i;
      const auto found = reduced_by_passes<1>(behind, feats, channels, Reduce::kSum, 1).out;
      CHECK(std::equal(expected.begin(), expected.end(), found.begin() + channels));
    }
  }
}

TEST(segments_that_do_not_belong_are_refused) {
  const std::vector<float> feats(100, 1.0f);
  const auto is_bad = [&](const std::vector<int64_t>& ptr, int64_t entry, int64_t row) {
    RowGroups groups = RowGroups::of_sizes(112, {100});
    groups.ptr = ptr;
    at(groups.order, entry) = row;
    return is_refused([&] {
      Executor executor(1);
      std::vector<float> out(3);
      segment_reduce<1>(executor, SegmentReduce<float>{feats.data(), groups.order.data(),
                                                       groups.ptr.data(), out.data(), nullptr, 100,
                                                       100, groups.count(), 1, Reduce::kSum});
    });
  };
  CHECK(!is_bad({0, 40, 100}, 0, 0));
  CHECK(!is_bad({0, 40, 99}, 99, -1));  // rows behind the last segment are not read
  CHECK(!is_bad({0}, 0, -1));
  for (const std::vector<int64_t>& ptr : std::vector<std::vector<int64_t>>{
           {1, 40, 100}, {0, 40, 101}, {0, 60, 40, 100}, {0, -1, 100}, {-5, 100}}) {
    CHECK(is_bad(ptr, 0, 0));
  }
  for (const int64_t row : {-1, 100, 1 << 30}) {
    for (const int64_t entry : {0, 77, 99}) CHECK(is_bad({0, 40, 100}, entry, row));
  }
}

template <class S>
struct Points {
  std::vector<int64_t> index;
  std::vector<SumType<S>> weight;
  int64_t count;
  int64_t terms;
  int64_t num_rows;

  Stencils<SumType<S>> stencils() const {
    return {index.data(), weight.data(), count, terms, num_rows};
  }
};

/// Weights are quarters, so that products with whole numbers are exact.
template <class S>
Points<S> random_points(int64_t count, int64_t terms, int64_t num_rows, bool exact_weights) {
  Random random(113);
  Points<S> points{{}, {}, count, terms, num_rows};
  for (int64_t j = 0; j < count * terms; ++j) {
    points.index.push_back(random.integer(-1, num_rows - 1));
    points.weight.push_back(static_cast<SumType<S>>(
        exact_weights ? 0.25 * static_cast<double>(random.integer(0, 4)) : random.real(0, 1)));
  }
  return points;
}

template <class S>
Sums sums_of(const Points<S>& points, const std::vector<S>& feats, int64_t channels) {
  Sums sums(points.count * channels);
  for (int64_t j = 0; j < points.count * points.terms; ++j) {
    const int64_t row = at(points.index, j);
    for (int64_t c = 0; row >= 0 && c < channels; ++c) {
      const double x = exact(at(feats, row * channels + c));
      sums.add(j / points.terms * channels + c, exact(at(points.weight, j)), x);
    }
  }
  return sums;
}

template <class S>
void check_interpolation(const Points<S>& points, int64_t channels, bool is_exact) {
  using A = SumType<S>;
  const check::Note note(points.count, " points, ", points.num_rows, " rows, ", channels,
                         " channels");
  const int64_t read = points.num_rows * channels;
  const int64_t made = points.count * channels;
  const auto values = is_exact ? coarse_values<S> : seeded_values<S>;
  const std::vector<S> feats = values(114, read);
  const std::vector<S> grad_out = values(115, made);
  std::vector<A> expected(grad_out.size());
  std::vector<A> expected_grad(feats.size());
  cpu::interpolate(all_widened(feats).data(), points.index.data(), points.weight.data(),
                   points.count, points.terms, channels, expected.data(), 1);
  cpu::interpolate_backward(all_widened(grad_out).data(), points.index.data(), points.weight.data(),
                            points.count, points.terms, points.num_rows, channels,
                            expected_grad.data(), 1);
  const Sums sums = is_exact ? Sums(0) : sums_of(points, feats, channels);
  for (const int threads : kThreadCounts) {
    for_each_width<S>(channels, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      Executor executor(threads);
      std::vector<S> out(grad_out.size(), stored(777, S{}));
      const Interpolation<S> task{points.stencils(), feats.data(), out.data(), channels};
      executor.for_each(points.count * (channels / kWidth), Interpolate<S, kWidth>{task});
      if (is_exact) expect_close(out, all_narrowed<S>(expected), 0);
      // Compilers may fuse products into sums in one of the two and not in the other.
      if (!is_exact) sums.template expect<A>(out);
      std::vector<S> grad(feats.size(), stored(777, S{}));
      interpolate_backward<kWidth>(
          executor,
          InterpolateBackward<S>{points.stencils(), grad_out.data(), grad.data(), channels});
      expect_close(grad, all_narrowed<S>(expected_grad), is_exact ? 0 : kNeighbors,
                   is_exact ? 0.0 : slack_of(points.count * points.terms));
      CHECK_EQ(executor.waits(), 0);
    });
  }
}

TEST(interpolation_and_its_adjoint_are_those_of_the_cpu) {
  for_each_type([](auto tag) {
    using S = decltype(tag);
    for (const bool is_exact : {true, false}) {
      for (const int64_t channels : kChannels) {
        for (const int64_t count : kRowCounts) {
          check_interpolation(random_points<S>(count, 3, 40, is_exact), channels, is_exact);
        }
        check_interpolation(random_points<S>(0, 8, 20, is_exact), channels, is_exact);
        check_interpolation(random_points<S>(20, 8, 0, is_exact), channels, is_exact);
      }
      check_interpolation(random_points<S>(20000, 1, 2, is_exact), 8, is_exact);
      check_interpolation(random_points<S>(3000, 8, 70000, is_exact), 3, is_exact);
      Points<S> nowhere = random_points<S>(100, 8, 5, is_exact);
      nowhere.index.assign(nowhere.index.size(), -1);
      check_interpolation(nowhere, 32, is_exact);
    }
  });
}

TEST(rows_that_do_not_exist_are_refused) {
  for (const int64_t row : {-2, 5, 1 << 30}) {
    Points<float> points = random_points<float>(10, 3, 5, true);
    points.index.back() = row;
    const std::vector<float> values(10, 1.0f);
    std::vector<float> out(10);
    const Interpolation<float> task{points.stencils(), values.data(), out.data(), 1};
    CHECK(is_refused([&] { Executor(1).for_each(10, Interpolate<float, 1>{task}); }));
    CHECK(is_refused([&] {
      Executor executor(1);
      interpolate_backward<1>(
          executor, InterpolateBackward<float>{points.stencils(), values.data(), out.data(), 1});
    }));
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
