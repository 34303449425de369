// SPDX-License-Identifier: MIT
// Part of simd/body.h: one output tile of a convolution, and of a depthwise one.
//
// An output row receives its taps in a fixed order (the full tap, then ascending) and its input
// channels in order, so its bits depend neither on the grouping of pairs nor on the tile nor on the
// thread.
#pragma once

#include "cpu/simd/multiply_bf16.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

template <class S, class A>
void finish_row(const ConvTask<S, A>& task, const A* sums, int64_t row, int group) {
  const int64_t at = (row * task.groups + group) * task.cout;
  for (int c = 0; c < task.cout; ++c) {
    A value = sums[c];
    if (task.residual) value += as_sum(task.residual[at + c]);
    if (task.relu) value = value > A(0) || value != value ? value : A(0);
    narrow(value, task.out + at + c);
  }
}

/// In the output where that is possible, else in the scratch.
template <class S, class A>
SumRows<A> sum_rows(const ConvTask<S, A>& task, int group, const Panels& panels, int64_t first_row,
                    A* scratch) {
  if constexpr (sizeof(S) == sizeof(A)) {
    if (accumulates_in_place(task, panels.lanes)) {
      const int64_t stride = static_cast<int64_t>(task.groups) * task.cout;
      return SumRows<A>{task.out + first_row * stride + group * task.cout, stride, first_row};
    }
  }
  return SumRows<A>{scratch, panels.padded(), first_row};
}

/// Scratch: tile_rows * padded sums (unless in place), then a block of copied rows.
template <class S, class A>
void conv_tile(const ConvTask<S, A>& task, int64_t tile, A* scratch) {
  using Math = typename MathOf<S, A>::type;
  using Row = typename Math::Row;
  const PairTiles& pairs = task.pairs;
  const Panels panels(task.cout, kLanes<A>, kMaxVectors);
  const int64_t first_row = pairs.first_row(tile);
  const int64_t last_row = pairs.last_row(tile);
  const int64_t feats_stride = static_cast<int64_t>(task.groups) * task.cin;
  const int length = MathOf<S, A>::kFormat.rows(task.cin);
  const int64_t group_weights = static_cast<int64_t>(length) * panels.padded();
  const bool in_place = accumulates_in_place(task, panels.lanes);
  A* const block = in_place ? scratch : scratch + pairs.tile_rows * panels.padded();

  for (int group = 0; group < task.groups; ++group) {
    const SumRows<A> sums = sum_rows(task, group, panels, first_row, scratch);
    const A* const bias = task.bias + group * panels.padded();
    const S* const feats = task.feats + group * task.cin;
    const auto add_tap = [&](int tap, const A* start) {
      const int64_t begin = pairs.first_pair(tile, tap);
      const int64_t count = pairs.first_pair(tile + 1, tap) - begin;
      if (count == 0) return;
      const Row* const weight = static_cast<const Row*>(task.weight) +
                                (static_cast<int64_t>(tap) * task.groups + group) * group_weights;
      const TapPairs<Math> tap_pairs{pairs.in_index + begin,
                                     pairs.out_index + begin,
                                     count,
                                     reinterpret_cast<const Row*>(feats),
                                     feats_stride,
                                     length,
                                     weight,
                                     start};
      multiply_tap(tap_pairs, feats, task.cin, panels, sums, block);
    };
    if (task.full_tap >= 0) {
      add_tap(task.full_tap, bias);
    } else {
      for (int64_t row = first_row; row < last_row; ++row) {
        A* const y = sums.row(row);
        for (int c = 0; c < panels.padded(); c += kLanes<A>) store<A>(y + c, load<A>(bias + c));
      }
    }
    for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
      if (tap != task.full_tap) add_tap(tap, nullptr);
    }
    if (!in_place || task.residual || task.relu) {
      for (int64_t row = first_row; row < last_row; ++row)
        finish_row(task, sums.row(row), row, group);
    }
  }
}

template <class T>
void channelwise_tile(const ChannelwiseTask<T>& task, int64_t tile) {
  const PairTiles& pairs = task.pairs;
  const int64_t channels = task.channels;
  for (int64_t row = pairs.first_row(tile); row < pairs.last_row(tile); ++row) {
    T* const y = task.out + row * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] = task.bias ? task.bias[c] : T(0);
  }
  for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
    const T* const w = task.weight ? task.weight + tap * channels : nullptr;
    for (int64_t p = pairs.first_pair(tile, tap); p < pairs.first_pair(tile + 1, tap); ++p) {
      const T* const x = task.feats + pairs.in_index[p] * channels;
      T* const y = task.out + pairs.out_index[p] * channels;
      if (w) {
        for (int64_t c = 0; c < channels; ++c) y[c] += w[c] * x[c];
      } else {
        for (int64_t c = 0; c < channels; ++c) y[c] += x[c];
      }
    }
  }
}

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
