// SPDX-License-Identifier: MIT
// Rows that belong together, reduced: points of a voxel, voxels of a batch element.
//
// Passes and memory: kernels/segments.h, behind a check of ptr. A term is a place in `order`.
// Sums and means are taken in kernels/wide_sum.h and rounded once: the CPU's, which sums in double,
// or their neighbours; of double the CPU's to the last bit in segments of less than 64 rows. Maxima
// and their rows are those of the CPU.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/refuse.h"
#include "kernels/channels.h"
#include "kernels/largest.h"
#include "kernels/segments.h"
#include "kernels/wide_sum.h"

namespace tsl {

enum class Reduce { kSum, kMean, kMax };

template <class S>
struct SegmentReduce {
  const S* feats;        // (num_rows, channels)
  const int64_t* order;  // (num_terms,) rows
  const int64_t* ptr;    // (segments + 1,)
  S* out;                // (segments, channels)
  int64_t* argmax;       // (segments, channels), for kMax
  int64_t num_rows;
  int64_t num_terms;
  int64_t segments;
  int64_t channels;
  Reduce reduce;

  TSL_HOST_DEVICE int64_t row_of(int64_t term) const {
    const int64_t row = order[term];
    if (row < 0 || row >= num_rows) {
      refuse_row("segment_reduce: order must be rows of feats", term, "Point at existing rows.");
    }
    return row;
  }
};

template <class S, int kWidth>
struct SumOfRows {
  using Sum = WideSum<S>;

  SegmentReduce<S> task;

  TSL_HOST_DEVICE void add(int64_t term, int64_t channel, Sum* sums) const {
    const auto x = read_pack<kWidth>(task.feats + task.row_of(term) * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) sums[k].add(widened<SumType<S>>(x.values[k]));
  }
  TSL_HOST_DEVICE void write(int64_t segment, int64_t channel, int64_t terms,
                             const Sum* sums) const {
    const bool is_mean = task.reduce == Reduce::kMean && terms > 1;
    Pack<S, kWidth> y;
    for (int k = 0; k < kWidth; ++k) {
      y.values[k] = narrowed<S>(is_mean ? sums[k].mean(terms) : sums[k].total());
    }
    write_pack(y, task.out + segment * task.channels + channel);
  }
};

template <class S, int kWidth>
struct LargestOfRows {
  using Sum = Largest<SumType<S>, int64_t>;

  SegmentReduce<S> task;

  TSL_HOST_DEVICE void add(int64_t term, int64_t channel, Sum* sums) const {
    const int64_t row = task.row_of(term);
    const auto x = read_pack<kWidth>(task.feats + row * task.channels + channel);
    for (int k = 0; k < kWidth; ++k) sums[k].offer(widened<SumType<S>>(x.values[k]), row);
  }
  TSL_HOST_DEVICE void write(int64_t segment, int64_t channel, int64_t, const Sum* sums) const {
    Pack<S, kWidth> y;
    Pack<int64_t, kWidth> rows;
    for (int k = 0; k < kWidth; ++k) {
      y.values[k] = narrowed<S>(sums[k].value);
      rows.values[k] = sums[k].row;
    }
    write_pack(y, task.out + segment * task.channels + channel);
    write_pack(rows, task.argmax + segment * task.channels + channel);
  }
};

template <int kWidth, class S, class Executor>
void segment_reduce(Executor& executor, const SegmentReduce<S>& task) {
  const Segments segments{task.ptr, task.segments, task.num_terms};
  executor.for_each(task.segments + 1, CheckPtr{segments});
  if (task.reduce == Reduce::kMax) {
    reduce_segments<kWidth>(executor, segments, LargestOfRows<S, kWidth>{task}, task.channels);
  } else {
    reduce_segments<kWidth>(executor, segments, SumOfRows<S, kWidth>{task}, task.channels);
  }
}

}  // namespace tsl
