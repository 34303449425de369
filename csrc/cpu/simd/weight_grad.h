// SPDX-License-Identifier: MIT
// Part of simd/body.h: the weight gradient of one tap and one range of input channels.
//
// Blocks of pairs are summed in registers,
//     sum[r][v] += x[pair][ci + r] * dy[pair][v]
// and then added to the gradient: a two-level sum, whose rounding error grows with the square root
// of what a plain one would have.
#pragma once

#include "cpu/simd/vector.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

/// dw[r][v] += sum over pairs p of x[p][r] * g[p][v].
template <class T, int kRows, int kVectors>
void outer_product(const T* const* x, const T* const* g, int pairs, T* dw, int64_t dw_stride) {
  Vector<T> sum[kRows][kVectors] = {};
  for (int p = 0; p < pairs; ++p) {
    const T* const xp = x[p];
    const T* const gp = g[p];
    Vector<T> w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = load<T>(gp + v * kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T value = xp[r];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += value * w[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* const to = dw + r * dw_stride + v * kLanes<T>;
      store<T>(to, load<T>(to) + sum[r][v]);
    }
  }
}

template <class T>
using OuterProduct = void (*)(const T* const*, const T* const*, int, T*, int64_t);

/// One function per panel width and number of rows.
template <class T>
struct OuterProductTable {
  OuterProduct<T> at[kMaxVectors + 1][kMaxRows + 1] = {};

  constexpr OuterProductTable() { add<kMaxVectors, tile_rows_for(kMaxVectors)>(); }

  template <int kVectors, int kRows>
  constexpr void add() {
    at[kVectors][kRows] = outer_product<T, kRows, kVectors>;
    if constexpr (kRows > 1) {
      add<kVectors, kRows - 1>();
    } else if constexpr (kVectors > 1) {
      add<kVectors - 1, tile_rows_for(kVectors - 1)>();
    }
  }
};

template <class T>
constexpr OuterProductTable<T> kOuterProduct{};

/// Scratch: kGradPairs * (cin + padded) sums' worth of widened rows.
template <class S, class A>
void weight_grad(const WeightGradTask<S, A>& task, const WeightGradPart& part, int64_t first,
                 int64_t last, A* scratch) {
  const PairTiles& pairs = task.pairs;
  const Panels panels(task.cout, kLanes<A>, kMaxVectors);
  const int64_t x_stride = static_cast<int64_t>(task.groups) * task.cin;
  const int64_t g_stride = static_cast<int64_t>(task.groups) * task.cout;
  const int64_t dw_stride = static_cast<int64_t>(task.groups) * panels.padded();
  const int channels = part.end - part.begin;
  const bool in_place = sizeof(S) == sizeof(A) && task.cout % kLanes<A> == 0;
  A* const x_copy = scratch;
  A* const g_copy = scratch + static_cast<int64_t>(kGradPairs) * task.cin;
  const A* x[kGradPairs];
  const A* g[kGradPairs];
  const A* x_block[kGradPairs];
  const A* g_block[kGradPairs];
  A* const dw = task.grad_weight +
                (static_cast<int64_t>(part.tap) * task.cin + part.begin) * dw_stride +
                part.group * panels.padded();

  const int64_t begin = pairs.first_pair(first, part.tap);
  const int64_t end = pairs.first_pair(last, part.tap);
  const EvenGroups blocks(end - begin, kGradPairs);
  for (int64_t block = 0; block < blocks.groups; ++block) {
    const int64_t from = begin + blocks.begin(block);
    const int count = static_cast<int>(begin + blocks.begin(block + 1) - from);
    for (int p = 0; p < count; ++p) {
      const S* const xs =
          task.feats + pairs.in_index[from + p] * x_stride + part.group * task.cin + part.begin;
      const S* const gs =
          task.grad_out + pairs.out_index[from + p] * g_stride + part.group * task.cout;
      if (in_place) {
        x[p] = reinterpret_cast<const A*>(xs);
        g[p] = reinterpret_cast<const A*>(gs);
      } else {
        widen(xs, x_copy + p * channels, channels);
        A* const padded = g_copy + p * panels.padded();
        widen(gs, padded, task.cout);
        for (int c = task.cout; c < panels.padded(); ++c) padded[c] = A(0);
        x[p] = x_copy + p * channels;
        g[p] = padded;
      }
    }
    if (in_place) {
      const int64_t ahead = from + 2 * count < end ? from + 2 * count : end;
      for (int64_t p = from + count; p < ahead; ++p) {
        prefetch_row(task.feats + pairs.in_index[p] * x_stride + part.group * task.cin + part.begin,
                     channels * static_cast<int64_t>(sizeof(S)));
        prefetch_row(task.grad_out + pairs.out_index[p] * g_stride + part.group * task.cout,
                     task.cout * static_cast<int64_t>(sizeof(S)));
      }
    }
    for (int panel = 0; panel < panels.count; ++panel) {
      const int vectors = panels.width(panel);
      const int column = panels.first(panel) * panels.lanes;
      for (int p = 0; p < count; ++p) g_block[p] = g[p] + column;
      const EvenGroups rows(channels, tile_rows_for(vectors));
      for (int64_t r = 0; r < rows.groups; ++r) {
        const int64_t row = rows.begin(r);
        for (int p = 0; p < count; ++p) x_block[p] = x[p] + row;
        kOuterProduct<A>.at[vectors][rows.begin(r + 1) - row](
            x_block, g_block, count, dw + row * dw_stride + column, dw_stride);
      }
    }
  }
}

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
