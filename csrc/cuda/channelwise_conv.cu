// SPDX-License-Identifier: MIT
#include "cuda/channelwise_conv.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class S>
void channelwise_conv(const Call& call, const ChannelwiseConv<S>& task) {
  Executor executor(call);
  const auto run = [&](auto width) {
    tsl::channelwise_conv<decltype(width)::value>(executor, task);
  };
  with_width<S>(task.channels, {task.feats, task.weight, task.bias, task.residual, task.out}, run);
}

template <class S>
void channelwise_weight_grad(const Call& call, const ChannelwiseWeightGrad<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.feats, task.grad_out}, [&](auto width) {
    tsl::channelwise_weight_grad<decltype(width)::value>(executor, task);
  });
}

#define TSL_INSTANTIATE(S)                                                   \
  template void channelwise_conv<S>(const Call&, const ChannelwiseConv<S>&); \
  template void channelwise_weight_grad<S>(const Call&, const ChannelwiseWeightGrad<S>&);
TSL_FOR_FLOATING(TSL_INSTANTIATE)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
