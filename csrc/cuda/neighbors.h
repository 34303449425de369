// SPDX-License-Identifier: MIT
// Neighbour tables and pair lists on the GPU: the passes of kernels/, launched on the caller's
// stream.
#pragma once

#include <cstdint>
#include <functional>

#include "cuda/call.h"
#include "kernels/neighbors_descend.h"
#include "kernels/neighbors_search.h"
#include "kernels/pair_table.h"
#include "kernels/pairs.h"

namespace tsl::cuda {

/// Called with the number of pairs, once it is known; sets the rows.
using AllocateRows = std::function<void(int64_t pairs, NeighborArrays* out)>;

/// Waits for the device once.
void neighbors_search(const Call& call, const WindowSearch& search, int64_t num_out,
                      const NeighborArrays& out, const AllocateRows& allocate);

/// Waits for the device once.
void neighbors_descend(const Call& call, const DescentCells& cells, const NeighborArrays& out,
                       const AllocateRows& allocate);

void pairs_by_tap(const Call& call, const NeighborTable& table, int64_t num_out, int64_t num_pairs,
                  int kernel_volume, const PairLists& out);

void transpose_pairs(const Call& call, const PairsView& pairs, int64_t num_in, int32_t* new_in,
                     int32_t* new_out);

/// `out` has room for all pairs.
void table_of_pairs(const Call& call, const CheckedPairs& pairs, const NeighborArrays& out);

void tile_pairs(const Call& call, const TilePairs& tiles, int64_t num_tiles);

}  // namespace tsl::cuda
