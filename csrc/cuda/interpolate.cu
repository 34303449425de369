// SPDX-License-Identifier: MIT
// Compiled without fused multiply-add, so that sums are those of a CPU that fuses none (x86; on
// aarch64 the compiler does) to the last bit.
#include "cuda/interpolate.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class S>
void interpolate(const Interpolation<S>& task, int device, void* stream) {
  const DeviceGuard guard(device);
  with_width<S>(task.channels, {task.feats, task.out}, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    for_each(task.at.count * (task.channels / kWidth), static_cast<cudaStream_t>(stream),
             Interpolate<S, kWidth>{task});
  });
}

template <class S>
void interpolate_backward(const Call& call, const InterpolateBackward<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.grad_out, task.grad_feats}, [&](auto width) {
    tsl::interpolate_backward<decltype(width)::value>(executor, task);
  });
}

#define TSL_INSTANTIATE(S)                                           \
  template void interpolate<S>(const Interpolation<S>&, int, void*); \
  template void interpolate_backward<S>(const Call&, const InterpolateBackward<S>&);
TSL_FOR_FLOATING(TSL_INSTANTIATE)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
