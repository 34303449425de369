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

template void segment_reduce<float>(const Call&, const SegmentReduce<float>&);
template void segment_reduce<double>(const Call&, const SegmentReduce<double>&);
template void segment_reduce<BFloat16>(const Call&, const SegmentReduce<BFloat16>&);
template void segment_reduce<Float16>(const Call&, const SegmentReduce<Float16>&);

}  // namespace tsl::cuda
