// SPDX-License-Identifier: MIT
// Compiled without fused multiply-add, so that scaled columns are those of a CPU that fuses none
// (x86; on aarch64 the compiler does) to the last bit.
#include "cuda/columns.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class S>
void column_sums(const Call& call, const ColumnSums<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.a, task.b},
                [&](auto width) { tsl::column_sums<decltype(width)::value>(executor, task); });
}

template <class S>
void column_moments(const Call& call, const ColumnMoments<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.feats},
                [&](auto width) { tsl::column_moments<decltype(width)::value>(executor, task); });
}

template <class S>
void scale_shift(const ScaleShift<S>& task, int device, void* stream) {
  const DeviceGuard guard(device);
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    for_each(task.rows * (task.channels / kWidth), static_cast<cudaStream_t>(stream),
             ScaleAndShift<S, kWidth>{task});
  };
  with_width<S>(task.channels,
                {task.a.x, task.a.scale, task.b.x, task.b.scale, task.shift, task.out}, run);
}

#define TSL_INSTANTIATE(S)                                               \
  template void column_sums<S>(const Call&, const ColumnSums<S>&);       \
  template void column_moments<S>(const Call&, const ColumnMoments<S>&); \
  template void scale_shift<S>(const ScaleShift<S>&, int, void*);
TSL_FOR_FLOATING(TSL_INSTANTIATE)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
