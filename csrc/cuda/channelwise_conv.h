// SPDX-License-Identifier: MIT
// Channelwise convolution, window sums and the weight gradient on the GPU: the passes of kernels/,
// launched on the caller's stream.
#pragma once

#include "cuda/call.h"
#include "kernels/channelwise_conv.h"

namespace tsl::cuda {

template <class S>
void channelwise_conv(const Call& call, const ChannelwiseConv<S>& task);

template <class S>
void channelwise_weight_grad(const Call& call, const ChannelwiseWeightGrad<S>& task);

}  // namespace tsl::cuda
