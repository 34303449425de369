// SPDX-License-Identifier: MIT
// Whole columns: sums, sums of products, mean and variance, and their adjoint, columns scaled and
// shifted.
//
// Sums: all rows are one segment of kernels/segments.h: blocks of 64 rows, groups of 64 blocks, and
// the rest, whatever the device. They are taken in kernels/wide_sum.h, to 42 bits or more
// where the CPU, over blocks of 1024 rows in double, has up to 53.
// scale_shift: one functor, an item is a row's pack of channels; computed in float (in double for
// double) in the CPU's order and rounded once, so it is the CPU's to the last bit, where neither
// fuses the product into the sum. Memory: none of its own.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "kernels/channels.h"
#include "kernels/segments.h"
#include "kernels/wide_sum.h"

namespace tsl {

template <class S>
struct ColumnSums {
  const S* a;  // (rows, channels)
  const S* b;  // (rows, channels), with product
  double* sum;
  double* product;  // of a and b, or null
  int64_t rows;
  int64_t channels;
};

template <class S, int kWidth>
struct SumOfColumns {
  using Sum = WideSum<S>;

  ColumnSums<S> task;

  TSL_HOST_DEVICE void add(int64_t row, int64_t channel, Sum* sums) const {
    const auto x = read_pack<kWidth>(task.a + row * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) sums[k].add(widened<SumType<S>>(x.values[k]));
  }
  TSL_HOST_DEVICE void write(int64_t, int64_t channel, int64_t, const Sum* sums) const {
    for (int k = 0; k < kWidth; ++k) task.sum[channel + k] = sums[k].in_double();
  }
};

/// Two sums over the same rows.
template <class S>
struct TwoSums {
  WideSum<S> first;
  WideSum<S> second;

  TSL_HOST_DEVICE void merge(const TwoSums& later) {
    first.merge(later.first);
    second.merge(later.second);
  }
};

template <class S, int kWidth>
struct SumOfProducts {
  using Sum = TwoSums<S>;

  ColumnSums<S> task;

  TSL_HOST_DEVICE void add(int64_t row, int64_t channel, Sum* sums) const {
    using A = SumType<S>;
    const auto x = read_pack<kWidth>(task.a + row * task.channels + channel);
    const auto y = read_pack<kWidth>(task.b + row * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) {
      sums[k].first.add(widened<A>(x.values[k]));
      sums[k].second.add_product(widened<A>(x.values[k]), widened<A>(y.values[k]));
    }
  }
  TSL_HOST_DEVICE void write(int64_t, int64_t channel, int64_t, const Sum* sums) const {
    for (int k = 0; k < kWidth; ++k) {
      task.sum[channel + k] = sums[k].first.in_double();
      task.product[channel + k] = sums[k].second.in_double();
    }
  }
};

template <int kWidth, class S, class Executor>
void column_sums(Executor& executor, const ColumnSums<S>& task) {
  const OneSegment rows{task.rows};
  if (task.product) {
    reduce_segments<kWidth>(executor, rows, SumOfProducts<S, kWidth>{task}, task.channels);
  } else {
    reduce_segments<kWidth>(executor, rows, SumOfColumns<S, kWidth>{task}, task.channels);
  }
}

/// Mean and biased variance of every column; zeros where there are no rows.
template <class S>
struct ColumnMoments {
  const S* feats;  // (rows, channels)
  double* mean;
  double* variance;
  int64_t rows;
  int64_t channels;
};

/// Distances to the first row are summed, so that a large mean costs the variance no digits.
template <class S, int kWidth>
struct SumOfDistances {
  using Sum = TwoSums<S>;

  ColumnMoments<S> task;

  TSL_HOST_DEVICE void add(int64_t row, int64_t channel, Sum* sums) const {
    using A = SumType<S>;
    const auto origin = read_pack<kWidth>(task.feats + channel);
    const auto x = read_pack<kWidth>(task.feats + row * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) {
      sums[k].first.add_distance(widened<A>(x.values[k]), widened<A>(origin.values[k]),
                                 &sums[k].second);
    }
  }
  TSL_HOST_DEVICE void write(int64_t, int64_t channel, int64_t rows, const Sum* sums) const {
    const double count = rows > 0 ? static_cast<double>(rows) : 1.0;
    for (int64_t c = channel; c < channel + kWidth; ++c, ++sums) {
      const double shift = sums->first.in_double() / count;
      const double spread = sums->second.in_double() / count - shift * shift;
      task.mean[c] = (rows > 0 ? widened<double>(task.feats[c]) : 0.0) + shift;
      task.variance[c] = spread < 0 ? 0.0 : spread;
    }
  }
};

template <int kWidth, class S, class Executor>
void column_moments(Executor& executor, const ColumnMoments<S>& task) {
  reduce_segments<kWidth>(executor, OneSegment{task.rows}, SumOfDistances<S, kWidth>{task},
                          task.channels);
}

/// A matrix (or null) and what each of its columns is multiplied with.
template <class S>
struct ScaledColumns {
  const S* x;
  const SumType<S>* scale;
};

/// out[r, c] = a.x[r, c] * a.scale[c] + b.x[r, c] * b.scale[c] + shift[c]; b.x and shift may be
/// null.
template <class S>
struct ScaleShift {
  ScaledColumns<S> a;
  ScaledColumns<S> b;
  const SumType<S>* shift;
  S* out;
  int64_t rows;
  int64_t channels;
};

template <class S, int kWidth>
struct ScaleAndShift {
  ScaleShift<S> task;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    using A = SumType<S>;
    const Element at = element_of<kWidth>(item, task.channels);
    const int64_t place = at.row * task.channels + at.channel;
    const auto x = read_pack<kWidth>(task.a.x + place);
    const auto x_scale = read_pack<kWidth>(task.a.scale + at.channel);
    A sums[kWidth];
    for (int k = 0; k < kWidth; ++k) sums[k] = widened<A>(x.values[k]) * x_scale.values[k];
    if (task.b.x) {
      const auto y = read_pack<kWidth>(task.b.x + place);
      const auto y_scale = read_pack<kWidth>(task.b.scale + at.channel);
      for (int k = 0; k < kWidth; ++k) sums[k] += widened<A>(y.values[k]) * y_scale.values[k];
    }
    if (task.shift) {
      const auto shift = read_pack<kWidth>(task.shift + at.channel);
      for (int k = 0; k < kWidth; ++k) sums[k] += shift.values[k];
    }
    Pack<S, kWidth> out;
    for (int k = 0; k < kWidth; ++k) out.values[k] = narrowed<S>(sums[k]);
    write_pack(out, task.out + place);
  }
};

}  // namespace tsl
