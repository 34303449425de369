// SPDX-License-Identifier: MIT
// Sparse convolution, the plain specification: every faster kernel equals it up to rounding.
//
// Item i is one number of the output, row i / out_channels, channel i % out_channels:
//   sum = bias[channel]
//   for each tap that has an input, ascending, and each input channel of the group, ascending:
//     sum += feats[input row][input channel] * weight[tap][input channel][channel]
//   out = relu(sum + residual), rounded once from the type of the sums; NaN passes the relu
// Memory: none of its own. Time: pairs of the row * in_channels / groups.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/neighbor_table.h"

namespace tsl {

/// S is the type in memory, A the type of the sums: float for the 16-bit types, else S itself.
template <class S, class A>
struct SparseConv {
  NeighborTable table;  // for each output row its inputs
  const S* feats;       // (num_in, in_channels)
  const S* weight;      // (kernel_volume, in_channels / groups, out_channels)
  const S* bias;        // (out_channels,) or null
  const S* residual;    // (num_out, out_channels) or null
  S* out;               // (num_out, out_channels)
  int in_channels;      // of all groups
  int out_channels;     // of all groups
  int groups;
  bool relu;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / out_channels;
    const int64_t channel = i % out_channels;
    const int64_t group = channel / (out_channels / groups);
    const int64_t group_channels = in_channels / groups;
    A sum = bias ? widened<A>(bias[channel]) : A(0);
    table.for_each(row, [&](int tap, int32_t input) {
      const S* const x = feats + int64_t{input} * in_channels + group * group_channels;
      const S* const w = weight + tap * group_channels * out_channels + channel;
      for (int64_t ci = 0; ci < group_channels; ++ci) {
        sum += widened<A>(x[ci]) * widened<A>(w[ci * out_channels]);
      }
    });
    if (residual) sum += widened<A>(residual[i]);
    if (relu && sum <= A(0)) sum = A(0);
    out[i] = narrowed<S>(sum);
  }
};

}  // namespace tsl
