// SPDX-License-Identifier: MIT
// Convolutions with their operands, for the tests of all that computes one: maps, the plain
// specification, and sums in double.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "kernels/sparse_conv.h"
#include "maps.h"
#include "numbers.h"

namespace tsl::test {

template <class S>
using SumOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

struct Map {
  std::vector<Pair> pairs;
  int64_t num_in;
  int64_t num_out;
  int kernel_volume;
  int full_tap;
};

inline Map submanifold_map(const Coords& coords, int32_t kernel_size) {
  const ConvGeometry g = cubic(kernel_size, 1, 1, kernel_size / 2);
  return Map{brute_force_pairs(coords, coords, g), size_of(coords), size_of(coords),
             g.kernel_volume(), g.kernel_volume() / 2};
}

inline Map strided_map(const Coords& fine, const ConvGeometry& g) {
  Coords coarse;
  for (const Coord& c : fine) coarse.push_back(g.cell_of(c));
  coarse = without_duplicates(coarse);
  return Map{brute_force_pairs(coarse, fine, g), size_of(fine), size_of(coarse), g.kernel_volume(),
             -1};
}

/// The same pairs read backwards.
inline Map transposed_map(const Map& map) {
  return Map{reversed(map.pairs), map.num_out, map.num_in, map.kernel_volume, -1};
}

/// About 200 rows with 8 pairs each.
inline Map small_map() {
  const Map map = submanifold_map(lidar_surface(61, 16, 120, 4.0), 3);
  CHECK(map.num_out > 150 && size_of(map.pairs) > 6 * map.num_out);
  return map;
}

/// Channels per group, and what else a convolution has.
struct Shape {
  int cin, cout;
  int groups = 1;
  bool has_bias = true;
  bool has_residual = false;
  bool relu = false;
};

/// One convolution with its operands.
template <class S>
struct Problem {
  Map map;
  Shape shape;
  std::vector<S> feats, weight, bias, residual;

  Problem(const Map& the_map, const Shape& the_shape, uint64_t seed)
      : map(the_map), shape(the_shape) {
    Random random(seed);
    feats = random_values<S>(random, map.num_in * in_channels());
    weight = random_values<S>(random, int64_t{map.kernel_volume} * shape.cin * out_channels());
    if (shape.has_bias) bias = random_values<S>(random, out_channels());
    if (shape.has_residual) residual = random_values<S>(random, map.num_out * out_channels());
  }

  int in_channels() const { return shape.groups * shape.cin; }
  int out_channels() const { return shape.groups * shape.cout; }
  size_t out_size() const { return static_cast<size_t>(map.num_out * out_channels()); }
  static const S* or_null(const std::vector<S>& values) {
    return values.empty() ? nullptr : values.data();
  }

  std::vector<S> by_specification() const {
    const OwnedTable table = table_of(map.pairs, map.num_out, map.kernel_volume);
    std::vector<S> out(out_size(), stored(777.0, S{}));
    const SparseConv<S, SumOf<S>> conv{
        table.view(), feats.data(),  weight.data(),  or_null(bias), or_null(residual),
        out.data(),   in_channels(), out_channels(), shape.groups,  shape.relu};
    for (size_t i = 0; i < out.size(); ++i) conv(static_cast<int64_t>(i));
    return out;
  }
};

template <class S>
Sums exact_conv(const Problem<S>& p) {
  Sums result(static_cast<int64_t>(p.out_size()));
  const Shape& shape = p.shape;
  const int64_t out_channels = p.out_channels();
  for (const Pair& pair : p.map.pairs) {
    for (int64_t channel = 0; channel < out_channels; ++channel) {
      const int64_t group = channel / shape.cout;
      for (int64_t ci = 0; ci < shape.cin; ++ci) {
        const S x = at(p.feats, pair.in * int64_t{p.in_channels()} + group * shape.cin + ci);
        const S w = at(p.weight, (int64_t{pair.tap} * shape.cin + ci) * out_channels + channel);
        result.add(pair.out * out_channels + channel, exact(x), exact(w));
      }
    }
  }
  for (int64_t i = 0; i < size_of(result.sum); ++i) {
    if (shape.has_bias) result.add(i, exact(at(p.bias, i % out_channels)));
    if (shape.has_residual) result.add(i, exact(at(p.residual, i)));
    if (shape.relu) at(result.sum, i) = std::max(at(result.sum, i), 0.0);
  }
  return result;
}

}  // namespace tsl::test
