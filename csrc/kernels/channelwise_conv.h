// SPDX-License-Identifier: MIT
// Convolution of each channel by itself (depthwise), sums over windows, and the gradient of the
// weight.
//
// Forward: the pairs are read row by row (kernels/pair_table.h); then an item is an output row's
// pack of channels. Bias first, taps ascending, in float (in double for double), then residual and
// activation, rounded once: the order of the CPU, equal up to where products are fused into sums.
// The input gradient is the same over the transposed map. Memory: that of the table.
//
// Gradient of the weight: pair lists lie tap after tap, so the taps are segments and the pairs
// their terms (kernels/segments.h). Sums are those of kernels/wide_sum.h; the CPU, which sums
// floats in blocks, differs by its own rounding. Memory: 8 bytes for each 64 pairs and channel.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "kernels/channels.h"
#include "kernels/pair_table.h"
#include "kernels/segments.h"
#include "kernels/wide_sum.h"

namespace tsl {

template <class S>
struct ChannelwiseConv {
  CheckedPairs pairs;
  const S* feats;     // (num_in, channels)
  const S* weight;    // (kernel_volume, channels), or null for ones
  const S* bias;      // (channels,) or null
  const S* residual;  // (num_out, channels) or null, added before the activation
  S* out;             // (num_out, channels)
  int64_t channels;
  bool relu;
};

template <class S, int kWidth>
struct ConvolveChannels {
  using A = SumType<S>;

  ChannelwiseConv<S> task;
  NeighborTable table;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    const Element to = element_of<kWidth>(item, task.channels);
    const int64_t place = to.row * task.channels + to.channel;
    A sums[kWidth] = {};
    if (task.bias) add(task.bias + to.channel, sums);
    table.for_each(to.row, [&](int tap, int32_t input) {
      const S* const x = task.feats + input * task.channels + to.channel;
      if (task.weight) {
        add_products(x, task.weight + tap * task.channels + to.channel, sums);
      } else {
        add(x, sums);
      }
    });
    if (task.residual) add(task.residual + place, sums);
    Pack<S, kWidth> y;
    for (int k = 0; k < kWidth; ++k) {
      y.values[k] = narrowed<S>(task.relu && sums[k] < A(0) ? A(0) : sums[k]);
    }
    write_pack(y, task.out + place);
  }

 private:
  TSL_HOST_DEVICE static void add(const S* from, A* sums) {
    const auto x = read_pack<kWidth>(from);
    for (int k = 0; k < kWidth; ++k) sums[k] += widened<A>(x.values[k]);
  }
  TSL_HOST_DEVICE static void add_products(const S* from, const S* weight, A* sums) {
    const auto x = read_pack<kWidth>(from);
    const auto w = read_pack<kWidth>(weight);
    for (int k = 0; k < kWidth; ++k) sums[k] += widened<A>(w.values[k]) * widened<A>(x.values[k]);
  }
};

template <int kWidth, class S, class Executor>
void channelwise_conv(Executor& executor, const ChannelwiseConv<S>& task) {
  const NeighborTable table = table_of_pairs(executor, task.pairs);
  executor.for_each(task.pairs.num_out * (task.channels / kWidth),
                    ConvolveChannels<S, kWidth>{task, table});
}

template <class S>
struct ChannelwiseWeightGrad {
  CheckedPairs pairs;
  const S* feats;           // (num_in, channels)
  const S* grad_out;        // (num_out, channels)
  SumType<S>* grad_weight;  // (kernel_volume, channels)
  int64_t channels;
};

template <class S, int kWidth>
struct SumOfPairs {
  using Sum = WideSum<S>;

  ChannelwiseWeightGrad<S> task;

  TSL_HOST_DEVICE void add(int64_t pair, int64_t channel, Sum* sums) const {
    using A = SumType<S>;
    const int64_t from = task.pairs.input(pair) * task.channels + channel;
    const int64_t to = task.pairs.output(pair) * task.channels + channel;
    const auto x = read_pack<kWidth>(task.feats + from);
    const auto g = read_pack<kWidth>(task.grad_out + to);
    for (int k = 0; k < kWidth; ++k) {
      sums[k].add_product(widened<A>(x.values[k]), widened<A>(g.values[k]));
    }
  }
  TSL_HOST_DEVICE void write(int64_t tap, int64_t channel, int64_t, const Sum* sums) const {
    for (int k = 0; k < kWidth; ++k) {
      task.grad_weight[tap * task.channels + channel + k] = sums[k].total();
    }
  }
};

template <int kWidth, class S, class Executor>
void channelwise_weight_grad(Executor& executor, const ChannelwiseWeightGrad<S>& task) {
  const Segments taps{tap_begins(executor, task.pairs), task.pairs.kernel_volume,
                      task.pairs.num_pairs};
  reduce_segments<kWidth>(executor, taps, SumOfPairs<S, kWidth>{task}, task.channels);
}

}  // namespace tsl
