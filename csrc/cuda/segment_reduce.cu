// SPDX-License-Identifier: MIT
#include "cuda/segment_reduce.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class S>
void segment_reduce(const Call& call, const SegmentReduce<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.feats, task.out, task.argmax},
                [&](auto width) { tsl::segment_reduce<decltype(width)::value>(executor, task); });
}

#define TSL_INSTANTIATE(S) template void segment_reduce<S>(const Call&, const SegmentReduce<S>&);
TSL_FOR_FLOATING(TSL_INSTANTIATE)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
