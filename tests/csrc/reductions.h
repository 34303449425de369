// SPDX-License-Identifier: MIT
// What reductions over rows are tested with: awkward values, groups of rows, windows; and when two
// numbers count as the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "core/check.h"
#include "kernels/channels.h"
#include "maps.h"
#include "numbers.h"

namespace tsl::test {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
std::vector<T> seeded_values(uint64_t seed, int64_t count) {
  Random random(seed);
  return random_values<T>(random, count);
}

/// Few different values, so that maxima are shared, and some NaN and infinities.
template <class T>
std::vector<T> coarse_values(uint64_t seed, int64_t count) {
  Random random(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i) {
    double value = static_cast<double>(random.integer(-3, 3));
    if (random.integer(0, 60) == 0) value = kNan;
    if (random.integer(0, 60) == 0) value = random.integer(0, 1) ? kInfinity : -kInfinity;
    values.push_back(stored(value, T{}));
  }
  return values;
}

/// Places of a number among all of its type; both zeros have one.
template <class S>
int64_t place_of(S value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const uint64_t sign = uint64_t{1} << (8 * sizeof value - 1);
  const int64_t magnitude = static_cast<int64_t>(bits & (sign - 1));
  return bits & sign ? -magnitude : magnitude;
}

/// The same number, NaN included, or one of so many neighbours, or one not further away than slack.
template <class S>
bool are_close(S a, S b, int64_t neighbors, double slack = 0) {
  if (std::isnan(exact(a)) || std::isnan(exact(b))) {
    return std::isnan(exact(a)) && std::isnan(exact(b));
  }
  return std::abs(place_of(a) - place_of(b)) <= neighbors ||
         std::fabs(exact(a) - exact(b)) <= slack;
}

template <class S>
void expect_close(const std::vector<S>& found, const std::vector<S>& expected, int64_t neighbors,
                  double slack = 0) {
  CHECK_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (are_close(found[i], expected[i], neighbors, slack)) continue;
    const check::Note note("element ", i);
    CHECK_EQ(exact(found[i]), exact(expected[i]));
    return;
  }
}

/// Whether the call throws ValueError.
template <class Call>
bool is_refused(const Call& call) {
  try {
    call();
  } catch (const ValueError&) {
    return true;
  }
  return false;
}

/// run(width) for each width that packs of these channels may have.
template <class S, class Run>
void for_each_width(int64_t channels, const Run& run) {
  run(std::integral_constant<int, 1>{});
  if (channels % kPackWidth<S> == 0) run(std::integral_constant<int, kPackWidth<S>>{});
}

template <class S>
std::vector<SumType<S>> all_widened(const std::vector<S>& values) {
  std::vector<SumType<S>> wide;
  for (const S value : values) wide.push_back(widened<SumType<S>>(value));
  return wide;
}

template <class S>
std::vector<S> all_narrowed(const std::vector<SumType<S>>& wide) {
  std::vector<S> values;
  for (const SumType<S> value : wide) values.push_back(narrowed<S>(value));
  return values;
}

struct PoolMap {
  std::vector<Pair> pairs;
  int64_t num_in;
  int64_t num_out;
  int kernel_volume;
};

inline std::vector<PoolMap> pool_maps() {
  const Coords fine = lidar_surface(81, 12, 120, 1.6, 2);
  const auto pool = [&](const ConvGeometry& g) {
    Coords coarse;
    for (const Coord& c : fine) coarse.push_back(g.cell_of(c));
    coarse.push_back(Coord{5, 0, 0, 0});  // sees nothing
    coarse = without_duplicates(coarse);
    return PoolMap{brute_force_pairs(coarse, fine, g), size_of(fine), size_of(coarse),
                   g.kernel_volume()};
  };
  return {pool(cubic(2, 2, 1, 0)), pool(cubic(3, 2, 1, 1)), pool(cubic(3, 1, 1, 1)),
          PoolMap{{}, 4, 0, 8}, PoolMap{{}, 0, 4, 8}};
}

/// Rows in groups, in no order.
struct RowGroups {
  std::vector<int64_t> order;
  std::vector<int64_t> ptr{0};

  /// Groups of every size, some empty, one that holds a large part of all rows.
  RowGroups(uint64_t seed, int64_t rows) {
    Random random(seed);
    while (ptr.back() < rows) {
      const int64_t wanted = size_of(ptr) == 5 ? rows / 3 : random.integer(0, 6);
      ptr.push_back(std::min(rows, ptr.back() + wanted));
    }
    ptr.push_back(rows);
    shuffle_rows(random);
  }
  static RowGroups of_sizes(uint64_t seed, const std::vector<int64_t>& sizes) {
    RowGroups groups(seed, 0);
    groups.ptr = {0};
    for (const int64_t size : sizes) groups.ptr.push_back(groups.ptr.back() + size);
    Random random(seed);
    groups.shuffle_rows(random);
    return groups;
  }

  int64_t count() const { return size_of(ptr) - 1; }
  int64_t rows() const { return ptr.back(); }

 private:
  void shuffle_rows(Random& random) {
    for (int64_t row = 0; row < rows(); ++row) order.push_back(row);
    random.shuffle(order);
  }
};

}  // namespace tsl::test
