// SPDX-License-Identifier: MIT
// Sparse convolution on the CPU: packs the weight, hands output tiles to threads, and calls the
// kernels of the best instruction set. Scratch memory lives for one call.
#pragma once

#include <cstdint>

#include "cpu/simd/kernels.h"

namespace tsl::cpu {

/// Rows of an output tile: sums of a tile stay in the second-level cache, and small maps still have
/// enough tiles to share. A function of the size alone, so results never depend on the threads.
int64_t tile_rows_for(int64_t num_out);

/// How the weight lies in memory. Stored: (kernel_volume, rows, columns).
struct WeightLayout {
  int kernel_volume;
  int groups;
  int cin;          // per group, of the convolution to compute
  int cout;         // per group
  bool transposed;  // stored with cout and cin exchanged: the weight of the adjoint convolution
  bool mirrored;    // tap t uses the weight of tap K-1-t
};

template <class S>
struct ConvArguments {
  PairTiles pairs;
  const S* feats;
  S* out;
  const S* weight;
  const S* bias;      // (groups * cout,) or null
  const S* residual;  // like out, or null
  WeightLayout layout;
  int full_tap;
  bool relu;
};

template <class S, class A>
void sparse_conv(const ConvArguments<S>& arguments, const ConvKernels<S, A>& kernels, int threads);

/// grad_weight: (kernel_volume, cin, groups * cout), overwritten.
template <class S, class A>
struct WeightGradArguments {
  PairTiles pairs;
  const S* feats;
  const S* grad_out;
  A* grad_weight;
  int groups;
  int cin;
  int cout;
};

template <class S, class A>
void sparse_conv_weight_grad(const WeightGradArguments<S, A>& arguments,
                             const ConvKernels<S, A>& kernels, int threads);

/// What follows the sums of an output.
template <class S>
struct Epilogue {
  const S* residual = nullptr;  // like out, or null
  bool relu = false;            // NaN passes
};

template <class S>
void channelwise_conv(const ChannelwiseTask<S>& task, const SimdKernels& kernels, int threads,
                      const Epilogue<S>& epilogue = {});

/// grad_weight[tap, c] = sum over pairs of x[in, c] * dy[out, c]; (kernel_volume, channels).
template <class S>
void channelwise_weight_grad(const PairTiles& pairs, const S* feats, const S* grad_out,
                             int channels, S* grad_weight, int threads);

}  // namespace tsl::cpu
