// SPDX-License-Identifier: MIT
// Windowed maxima and their gradient on the GPU: the passes of kernels/, launched on the caller's
// stream.
#pragma once

#include "cuda/call.h"
#include "kernels/max_pool.h"

namespace tsl::cuda {

template <class S>
void max_pool(const Call& call, const MaxPool<S>& task);

template <class S>
void max_pool_backward(const Call& call, const MaxPoolBackward<S>& task);

}  // namespace tsl::cuda
