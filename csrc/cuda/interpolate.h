// SPDX-License-Identifier: MIT
// Weighted sums of a few rows on the GPU: the functor and the passes of kernels/, launched on the
// caller's stream.
#pragma once

#include "cuda/call.h"
#include "kernels/interpolate.h"

namespace tsl::cuda {

/// `stream` is a cudaStream_t.
template <class S>
void interpolate(const Interpolation<S>& task, int device, void* stream);

template <class S>
void interpolate_backward(const Call& call, const InterpolateBackward<S>& task);

}  // namespace tsl::cuda
