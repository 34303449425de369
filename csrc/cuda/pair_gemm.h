// SPDX-License-Identifier: MIT
// The gradient of sparse convolution by its weight on the GPU: the parts, then their sums.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "kernels/pair_gemm.h"

namespace tsl::cuda {

/// The partial sums of `gemm` are left to this function. grad_weight: (kernel_volume, in_channels,
/// out_channels), channels of the gradient, which may be fewer than those of `gemm`.
template <class S>
void weight_grad(const Call& call, const PairGemm<S>& gemm, int in_channels, int out_channels,
                 float* grad_weight);

}  // namespace tsl::cuda
