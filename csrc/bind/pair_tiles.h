// SPDX-License-Identifier: MIT
// What several bind/<concept>.cpp share: reading tiled pair lists, and dispatch over float types.
#pragma once

#include "bind/tensor_view.h"
#include "cpu/simd/kernels.h"

namespace tsl::bind {

/// Checks the arrays of a tiled kernel map against each other; `function` starts the message.
inline cpu::PairTiles pair_tiles(const TensorView& in_index, const TensorView& out_index,
                                 const TensorView& tile_ptr, int64_t tile_rows, int64_t num_out,
                                 int64_t kernel_volume, const char* function) {
  const int64_t pairs = in_index.shape[0];
  in_index.expect(message(function, ": in_index").c_str(), DType::kInt32, {-1});
  out_index.expect(message(function, ": out_index").c_str(), DType::kInt32, {pairs});
  TSL_CHECK(tile_rows > 0, ValueError, function, ": tile_rows must be positive, got ", tile_rows,
            ". Use the tile_rows that tile_ptr was made with.");
  const int64_t tiles = (num_out + tile_rows - 1) / tile_rows;
  tile_ptr.expect(message(function, ": tile_ptr").c_str(), DType::kInt64,
                  {tiles + 1, kernel_volume});
  return cpu::PairTiles{in_index.as<int32_t>(),
                        out_index.as<int32_t>(),
                        tile_ptr.as<int64_t>(),
                        static_cast<int>(kernel_volume),
                        tile_rows,
                        num_out};
}

/// run(type tag) for float32 and float64; half types are widened in Python for these operators.
template <class Run>
void dispatch_plain(DType dtype, const char* function, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    default:
      throw TypeError(message(function, ": feats must have dtype float32 or float64, got ",
                              name_of(dtype), ". Convert it with .to()."));
  }
}

}  // namespace tsl::bind
