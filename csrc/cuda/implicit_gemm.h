// SPDX-License-Identifier: MIT
// Implicit GEMM on the GPU: packing of the weight, order of the rows, and the tiles.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "kernels/implicit_gemm.h"
#include "kernels/row_order.h"

namespace tsl::cuda {

template <class S>
void pack_weight(const Call& call, const PackWeight<S>& pack);

void order_rows(const Call& call, const NeighborTable& table, const int64_t* tap_ptr,
                int kernel_volume, int64_t num_out, int64_t block_rows, int32_t* order);

/// `tile` is one of TileShapes.
template <class S>
void implicit_gemm(const Call& call, const ImplicitGemm<S>& gemm, int tile);

}  // namespace tsl::cuda
