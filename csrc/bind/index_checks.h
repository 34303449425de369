// SPDX-License-Identifier: MIT
// Every index that comes from Python is checked before anything is addressed with it.
//
// Each check reads its array once, in parallel; against the work that follows this is little.
#pragma once

#include "bind/tensor_view.h"
#include "core/neighbor_table.h"
#include "cpu/simd/kernels.h"
#include "kernels/pair_table.h"

namespace tsl::bind {

/// Refuses entries of an int32 or int64 index that are not rows from `first` to `count` - 1.
void check_rows(const TensorView& index, int64_t first, int64_t count, const char* argument,
                int threads);

/// Refuses an int64 ptr that does not cut `count` rows into consecutive segments.
void check_ptr(const TensorView& ptr, int64_t count, const char* argument, int threads);
/// The same where there may be rows behind the last segment; returns how many are in segments.
int64_t check_ptr_within(const TensorView& ptr, int64_t count, const char* argument, int threads);

/// A neighbour table: mask (N, words) int32, ptr (N + 1,) int64, rows (P,) int32.
struct TableArrays {
  const TensorView& mask;
  const TensorView& ptr;
  const TensorView& rows;
};
/// Types and shapes alone; on a GPU the passes look into the arrays themselves.
NeighborTable described_table(const TableArrays& arrays, int kernel_volume, const char* function,
                              dlpack::DeviceType device);
/// Entries too, on the CPU.
NeighborTable neighbor_table(const TableArrays& arrays, int kernel_volume, const char* function,
                             int threads);

/// A tiled kernel map: in_index (P,) int32, out_index (P,) int32, tile_ptr (tiles + 1, K) int64.
struct PairArrays {
  const TensorView& in_index;
  const TensorView& out_index;
  const TensorView& tile_ptr;
  int64_t tile_rows;
};

/// Types and shapes alone, of a map on a GPU; the passes look into the arrays themselves.
CheckedPairs described_pairs(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                             const char* function);

/// The map of a gather: inside a tile and a tap, output rows ascend and belong to the tile.
cpu::PairTiles pair_tiles(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                          const char* function, int threads);

/// The map of a sum over pairs, whose tiles only cut the work: rows of either side may come in any
/// order.
cpu::PairTiles untiled_pairs(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                             const char* function, int threads);

}  // namespace tsl::bind
