// SPDX-License-Identifier: MIT
// The 8 voxels around each point, on the GPU: the same functor as on the CPU, launched on the
// caller's stream.
#pragma once

#include <cstdint>

#include "kernels/corners.h"

namespace tsl::cuda {

/// `stream` is a cudaStream_t.
template <class T>
void corners(const Corners<T>& corners, int64_t count, int device, void* stream);

}  // namespace tsl::cuda
