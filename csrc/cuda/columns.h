// SPDX-License-Identifier: MIT
// Whole columns on the GPU: the passes and the functor of kernels/, launched on the caller's
// stream.
#pragma once

#include "cuda/call.h"
#include "kernels/columns.h"

namespace tsl::cuda {

template <class S>
void column_sums(const Call& call, const ColumnSums<S>& task);

template <class S>
void column_moments(const Call& call, const ColumnMoments<S>& task);

/// `stream` is a cudaStream_t.
template <class S>
void scale_shift(const ScaleShift<S>& task, int device, void* stream);

}  // namespace tsl::cuda
