// SPDX-License-Identifier: MIT
// The largest input of each window, and the gradient, which goes to the inputs it came from.
//
// The pairs, which for the gradient are those of the transposed map, are read row by row
// (kernels/pair_table.h). Then an item is an output row's pack of channels: taps ascending, first
// come first kept, as on the CPU; gradients are added in float (in double for double) and rounded
// once. Both are the CPU's to the last bit. Memory: that of the table.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "kernels/channels.h"
#include "kernels/largest.h"
#include "kernels/pair_table.h"

namespace tsl {

template <class S>
struct MaxPool {
  CheckedPairs pairs;
  const S* feats;   // (num_in, channels)
  S* out;           // (num_out, channels), 0 where a window is empty
  int32_t* argmax;  // (num_out, channels) rows of feats, or -1
  int64_t channels;
};

template <class S, int kWidth>
struct LargestOfWindow {
  MaxPool<S> task;
  NeighborTable table;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    using A = SumType<S>;
    const Element to = element_of<kWidth>(item, task.channels);
    Largest<A, int32_t> largest[kWidth];
    table.for_each(to.row, [&](int, int32_t input) {
      const auto x = read_pack<kWidth>(task.feats + input * task.channels + to.channel);
      for (int k = 0; k < kWidth; ++k) largest[k].offer(widened<A>(x.values[k]), input);
    });
    Pack<S, kWidth> y;
    Pack<int32_t, kWidth> rows;
    for (int k = 0; k < kWidth; ++k) {
      y.values[k] = narrowed<S>(largest[k].value);
      rows.values[k] = largest[k].row;
    }
    write_pack(y, task.out + to.row * task.channels + to.channel);
    write_pack(rows, task.argmax + to.row * task.channels + to.channel);
  }
};

template <int kWidth, class S, class Executor>
void max_pool(Executor& executor, const MaxPool<S>& task) {
  const NeighborTable table = table_of_pairs(executor, task.pairs);
  executor.for_each(task.pairs.num_out * (task.channels / kWidth),
                    LargestOfWindow<S, kWidth>{task, table});
}

/// The pairs lead from the pool's outputs to its inputs.
template <class S>
struct MaxPoolBackward {
  CheckedPairs pairs;
  const S* grad_out;      // (pairs.num_in, channels)
  const int32_t* argmax;  // (pairs.num_in, channels)
  S* grad_in;             // (pairs.num_out, channels)
  int64_t channels;
};

template <class S, int kWidth>
struct SumOfLargest {
  MaxPoolBackward<S> task;
  NeighborTable table;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    using A = SumType<S>;
    const Element to = element_of<kWidth>(item, task.channels);
    A sums[kWidth] = {};
    table.for_each(to.row, [&](int, int32_t window) {
      const int64_t from = window * task.channels + to.channel;
      const auto g = read_pack<kWidth>(task.grad_out + from);
      const auto rows = read_pack<kWidth>(task.argmax + from);
      for (int k = 0; k < kWidth; ++k) {
        sums[k] += rows.values[k] == to.row ? widened<A>(g.values[k]) : A(0);
      }
    });
    Pack<S, kWidth> y;
    for (int k = 0; k < kWidth; ++k) y.values[k] = narrowed<S>(sums[k]);
    write_pack(y, task.grad_in + to.row * task.channels + to.channel);
  }
};

template <int kWidth, class S, class Executor>
void max_pool_backward(Executor& executor, const MaxPoolBackward<S>& task) {
  const NeighborTable table = table_of_pairs(executor, task.pairs);
  executor.for_each(task.pairs.num_out * (task.channels / kWidth),
                    SumOfLargest<S, kWidth>{task, table});
}

}  // namespace tsl
