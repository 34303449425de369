// SPDX-License-Identifier: MIT
// Reduction of rows that belong together, on the GPU: the passes of kernels/, launched on the
// caller's stream.
#pragma once

#include "cuda/call.h"
#include "kernels/segment_reduce.h"

namespace tsl::cuda {

template <class S>
void segment_reduce(const Call& call, const SegmentReduce<S>& task);

}  // namespace tsl::cuda
