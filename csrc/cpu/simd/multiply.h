// SPDX-License-Identifier: MIT
// Part of simd/body.h: the register tile of the forward pass and how pairs are fed to it.
//
// A group of pairs (input row, output row) of one tap: the group's sums sit in registers while the
// input channels are walked once,
//     sum[r][v] += x[row r][ci] * weight[ci][v]        r: up to 12 rows, v: up to 4 vectors
// Rows are read where they lie; only weights are packed.
#pragma once

#include "cpu/simd/vector.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

/// One step of a sum: `Row` is an element of a gathered row, `value * w` its product with a vector
/// of weights.
template <class T>
struct PlainMath {
  using Row = T;
  using Sum = T;
  static Vector<T> weights(const T* w) { return load<T>(w); }
  static void add(Vector<T>& sum, T value, Vector<T> w) { sum += value * w; }
};

/// Where the sums of a tile are collected.
template <class A>
struct SumRows {
  A* base;  // of row `first_row`
  int64_t stride;
  int64_t first_row;
  A* row(int64_t out_row) const { return base + (out_row - first_row) * stride; }
};

/// Consecutive pairs of one tap and one register panel.
template <class Math>
struct PairRun {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  const int32_t* in_index;
  const int32_t* out_index;
  const Row* feats;
  int64_t feats_stride;
  int length;         // of a row
  SumRows<Sum> sums;  // shifted to the panel's column
  const Row* weight;  // (length, vectors * lanes)
  const Sum* start;   // what the sums start from, or null: from what is there
};

/// sums[out] (+)= feats[in] * weight for `groups` groups of kRows pairs. While a group is computed,
/// the rows of the next one are asked for, a line of each at a time.
template <class Math, int kRows, int kVectors>
void multiply(const PairRun<Math>& run, int64_t groups) {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  constexpr int kLineValues = kCacheLine / static_cast<int>(sizeof(Row));
  constexpr int kStep = kLanes<Sum>;
  const Row* x[kRows];
  Sum* y[kRows];
  const auto locate = [&](int64_t group) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      x[r] = run.feats + run.in_index[group * kRows + r] * run.feats_stride;
      y[r] = run.sums.row(run.out_index[group * kRows + r]);
    }
  };
  locate(0);
  for (int64_t group = 0; group < groups; ++group) {
    Vector<Sum> sum[kRows][kVectors];
    Sum* to[kRows];
    const Row* row[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      to[r] = y[r];
      row[r] = x[r];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = load<Sum>((run.start ? run.start : y[r]) + v * kStep);
      }
    }
    locate(group + 1 < groups ? group + 1 : group);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(y[r] + v * kStep, 1);
    }
    const Row* w_row = run.weight;
    for (int begin = 0; begin < run.length; begin += kLineValues) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) __builtin_prefetch(x[r] + begin);
      const int end = begin + kLineValues < run.length ? begin + kLineValues : run.length;
#pragma GCC unroll 2
      for (int i = begin; i < end; ++i) {
        decltype(Math::weights(w_row)) w[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = Math::weights(w_row + v * kStep);
        w_row += kVectors * kStep;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Row value = row[r][i];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) Math::add(sum[r][v], value, w[v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store<Sum>(to[r] + v * kStep, sum[r][v]);
    }
  }
}

template <class Math>
using Multiply = void (*)(const PairRun<Math>&, int64_t groups);

/// One function per panel width and number of rows.
template <class Math>
struct MultiplyTable {
  Multiply<Math> at[kMaxVectors + 1][kMaxRows + 1] = {};

  constexpr MultiplyTable() { add<kMaxVectors, tile_rows_for(kMaxVectors)>(); }

  template <int kVectors, int kRows>
  constexpr void add() {
    at[kVectors][kRows] = multiply<Math, kRows, kVectors>;
    if constexpr (kRows > 1) {
      add<kVectors, kRows - 1>();
    } else if constexpr (kVectors > 1) {
      add<kVectors - 1, tile_rows_for(kVectors - 1)>();
    }
  }
};

template <class Math>
constexpr MultiplyTable<Math> kMultiply{};

/// All pairs of one tap and channel group of a tile.
template <class Math>
struct TapPairs {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  const int32_t* in_index;
  const int32_t* out_index;
  int64_t count;
  const Row* feats;
  int64_t feats_stride;
  int length;         // of a row
  const Row* weight;  // panels of (length, lanes * width)
  const Sum* start;
};

/// Rows read in place: full groups of rows, then one or two smaller ones of equal size.
template <class Math>
void multiply_pairs(const TapPairs<Math>& pairs, const Panels& panels,
                    const SumRows<typename Math::Sum>& sums) {
  for (int panel = 0; panel < panels.count; ++panel) {
    const int vectors = panels.width(panel);
    const int column = panels.first(panel) * panels.lanes;
    PairRun<Math> run{pairs.in_index,
                      pairs.out_index,
                      pairs.feats,
                      pairs.feats_stride,
                      pairs.length,
                      {sums.base + column, sums.stride, sums.first_row},
                      pairs.weight + static_cast<int64_t>(column) * pairs.length,
                      pairs.start ? pairs.start + column : nullptr};
    const auto take = [&](int rows, int64_t groups) {
      kMultiply<Math>.at[vectors][rows](run, groups);
      run.in_index += rows * groups;
      run.out_index += rows * groups;
    };
    const int full = tile_rows_for(vectors);
    const int64_t wanted = pairs.count % full == 0 ? pairs.count / full : pairs.count / full - 1;
    const int64_t full_groups = wanted > 0 ? wanted : 0;
    if (full_groups > 0) take(full, full_groups);
    const EvenGroups rest(pairs.count - full_groups * full, full);
    for (int64_t group = 0; group < rest.groups; ++group) {
      take(static_cast<int>(rest.begin(group + 1) - rest.begin(group)), 1);
    }
  }
}

constexpr struct BlockIndex {
  int32_t at[kBlockPairs] = {};
  constexpr BlockIndex() {
    for (int i = 0; i < kBlockPairs; ++i) at[i] = i;
  }
} kBlockIndex;

/// Rows that cannot be read in place: copy(pair, row) brings a block of them into `block`, which
/// then serves all panels.
template <class Math, class Copy>
void multiply_copied(TapPairs<Math> pairs, const Panels& panels,
                     const SumRows<typename Math::Sum>& sums, typename Math::Row* block,
                     const Copy& copy) {
  const int32_t* const in_index = pairs.in_index;
  const int64_t all = pairs.count;
  pairs.feats = block;
  pairs.feats_stride = pairs.length;
  pairs.in_index = kBlockIndex.at;
  for (int64_t first = 0; first < all; first += kBlockPairs) {
    pairs.count = all - first < kBlockPairs ? all - first : kBlockPairs;
    for (int64_t p = 0; p < pairs.count; ++p) {
      copy(in_index[first + p], block + p * pairs.length);
    }
    multiply_pairs(pairs, panels, sums);
    pairs.out_index += pairs.count;
  }
}

/// One tap and channel group of a tile: float32 and float64 rows where they lie, half types
/// widened...
template <class S, class A>
void multiply_tap(const TapPairs<PlainMath<A>>& pairs, const S* feats, int cin,
                  const Panels& panels, const SumRows<A>& sums, A* block) {
  if constexpr (sizeof(S) == sizeof(A)) {
    multiply_pairs(pairs, panels, sums);
  } else {
    const int64_t stride = pairs.feats_stride;
    multiply_copied(pairs, panels, sums, block,
                    [&](int32_t row, A* to) { widen(feats + row * stride, to, cin); });
  }
}

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
