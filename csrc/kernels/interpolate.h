// SPDX-License-Identifier: MIT
// Weighted sums of a few rows each, out[i] = sum over j of weight[i, j] * feats[index[i, j]], and
// the gradient by feats. An index of -1 skips the term.
//
// Forward, one functor: an item is an output row's pack of channels; its terms are added in order
// in float (in double for double) and rounded once, as on the CPU. Memory: none of its own.
//
// Gradient: sort the terms by the row they read, stable | find where each row begins | sum the
// terms of each row (kernels/segments.h). No atomics: a row is summed by one item at a time, terms
// ascending, as on the CPU; in kernels/wide_sum.h, rounded once, so it is the CPU's, which sums in
// double, or its neighbour. Memory: 16 bytes a term, and what sorting and reducing need.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/refuse.h"
#include "kernels/channels.h"
#include "kernels/passes.h"
#include "kernels/segments.h"
#include "kernels/wide_sum.h"

namespace tsl {

/// What is interpolated: `terms` rows out of num_rows for each of `count` points.
template <class A>
struct Stencils {
  const int64_t* index;  // (count, terms)
  const A* weight;       // (count, terms)
  int64_t count;
  int64_t terms;
  int64_t num_rows;

  /// -1 or a row.
  TSL_HOST_DEVICE int64_t row_of(int64_t term) const {
    const int64_t row = index[term];
    if (row < -1 || row >= num_rows) {
      refuse_row("interpolate: index must be rows of feats or -1", term, "Point at existing rows.");
    }
    return row;
  }
};

template <class S>
struct Interpolation {
  Stencils<SumType<S>> at;
  const S* feats;  // (num_rows, channels)
  S* out;          // (count, channels)
  int64_t channels;
};

template <class S, int kWidth>
struct Interpolate {
  Interpolation<S> task;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    using A = SumType<S>;
    const Element to = element_of<kWidth>(item, task.channels);
    A sums[kWidth] = {};
    for (int64_t j = to.row * task.at.terms; j < (to.row + 1) * task.at.terms; ++j) {
      const int64_t row = task.at.row_of(j);
      if (row < 0) continue;
      const auto x = read_pack<kWidth>(task.feats + row * task.channels + to.channel);
      for (int k = 0; k < kWidth; ++k) sums[k] += task.at.weight[j] * widened<A>(x.values[k]);
    }
    Pack<S, kWidth> y;
    for (int k = 0; k < kWidth; ++k) y.values[k] = narrowed<S>(sums[k]);
    write_pack(y, task.out + to.row * task.channels + to.channel);
  }
};

template <class S>
struct InterpolateBackward {
  Stencils<SumType<S>> at;
  const S* grad_out;  // (count, channels)
  S* grad_feats;      // (num_rows, channels)
  int64_t channels;
};

/// Terms by the row they read; those that read none come last.
template <class A>
struct TermKeys {
  Stencils<A> at;
  uint32_t* rows;
  int32_t* terms;

  TSL_HOST_DEVICE void operator()(int64_t j) const {
    const int64_t row = at.row_of(j);
    rows[j] = static_cast<uint32_t>(row < 0 ? at.num_rows : row);
    terms[j] = static_cast<int32_t>(j);
  }
};

/// ptr[row]: the first sorted term of the row or a later one. One item more than there are rows.
struct WriteTermPtr {
  const uint32_t* rows;  // sorted
  int64_t count;
  int64_t* ptr;

  TSL_HOST_DEVICE void operator()(int64_t row) const {
    int64_t low = 0;
    int64_t high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (rows[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    ptr[row] = low;
  }
};

template <class S, int kWidth>
struct SumOfTerms {
  using Sum = WideSum<S>;

  InterpolateBackward<S> task;
  const int32_t* terms;  // sorted

  TSL_HOST_DEVICE void add(int64_t place, int64_t channel, Sum* sums) const {
    using A = SumType<S>;
    const int32_t j = terms[place];
    const int64_t point = j / static_cast<int32_t>(task.at.terms);
    const auto g = read_pack<kWidth>(task.grad_out + point * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) {
      sums[k].add_product(task.at.weight[j], widened<A>(g.values[k]));
    }
  }
  TSL_HOST_DEVICE void write(int64_t row, int64_t channel, int64_t, const Sum* sums) const {
    Pack<S, kWidth> y;
    for (int k = 0; k < kWidth; ++k) y.values[k] = narrowed<S>(sums[k].total());
    write_pack(y, task.grad_feats + row * task.channels + channel);
  }
};

/// For fewer than 2^31 terms and rows.
template <int kWidth, class S, class Executor>
void interpolate_backward(Executor& executor, const InterpolateBackward<S>& task) {
  const int64_t count = task.at.count * task.at.terms;
  const auto [rows, spare_rows, terms, spare_terms, ptr] =
      scratch<uint32_t, uint32_t, int32_t, int32_t, int64_t>(
          executor, {count, count, count, count, task.at.num_rows + 1});
  int bits = 1;
  while (task.at.num_rows >> bits != 0) ++bits;
  executor.for_each(count, TermKeys<SumType<S>>{task.at, rows, terms});
  const auto sorted = executor.sort_pairs(rows, spare_rows, terms, spare_terms, count, bits);
  executor.for_each(task.at.num_rows + 1, WriteTermPtr{sorted.keys, count, ptr});
  reduce_segments<kWidth>(executor, Segments{ptr, task.at.num_rows, count},
                          SumOfTerms<S, kWidth>{task, sorted.values}, task.channels);
}

}  // namespace tsl
