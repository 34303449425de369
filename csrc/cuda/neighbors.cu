// SPDX-License-Identifier: MIT
#include "cuda/neighbors.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

void neighbors_search(const Call& call, const WindowSearch& search, int64_t num_out,
                      const NeighborArrays& out, const AllocateRows& allocate) {
  Executor executor(call);
  tsl::neighbors_search(executor, search, num_out, out, allocate);
}

void neighbors_descend(const Call& call, const DescentCells& cells, const NeighborArrays& out,
                       const AllocateRows& allocate) {
  Executor executor(call);
  tsl::neighbors_descend(executor, cells, out, allocate);
}

void pairs_by_tap(const Call& call, const NeighborTable& table, int64_t num_out, int64_t num_pairs,
                  int kernel_volume, const PairLists& out) {
  Executor executor(call);
  tsl::pairs_by_tap(executor, table, num_out, num_pairs, kernel_volume, out);
}

void transpose_pairs(const Call& call, const PairsView& pairs, int64_t num_in, int32_t* new_in,
                     int32_t* new_out) {
  Executor executor(call);
  tsl::transpose_pairs(executor, pairs, num_in, new_in, new_out);
}

void table_of_pairs(const Call& call, const CheckedPairs& pairs, const NeighborArrays& out) {
  Executor executor(call);
  tsl::table_of_pairs(executor, pairs, out);
}

void tile_pairs(const Call& call, const TilePairs& tiles, int64_t num_tiles) {
  Executor executor(call);
  executor.for_each((num_tiles + 1) * tiles.pairs.kernel_volume, tiles);
}

}  // namespace tsl::cuda
