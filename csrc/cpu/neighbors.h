// SPDX-License-Identifier: MIT
// Neighbour tables on the CPU, by hash search (any geometry) and by octree descent (3x3x3, Morton
// rows), and what is derived from them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_geometry.h"
#include "core/hash_table.h"
#include "core/neighbor_table.h"
#include "kernels/pair_table.h"

namespace tsl::cpu {

/// Input rows of a neighbour table, block after block of output rows, as a search has found them.
using RowBlocks = std::vector<std::vector<int32_t>>;

/// For every coarse site, the rows of the fine sites its window holds, found in `fine`.
/// Fills mask (num_coarse, words) and ptr (num_coarse + 1,).
struct HashSearch {
  const Coord* coarse;
  int64_t num_coarse;
  HashTableView fine;
  ConvGeometry geometry;

  RowBlocks run(uint32_t* mask, int64_t* ptr, int threads) const;
};

/// The same pairs from the other side: for every fine site, the coarse sites whose windows hold it.
/// Where the stride is larger than one these are fewer lookups.
/// Fills mask (num_fine, words) and ptr (num_fine + 1,).
struct InverseSearch {
  const Coord* fine;
  int64_t num_fine;
  HashTableView coarse;
  ConvGeometry geometry;

  RowBlocks run(uint32_t* mask, int64_t* ptr, int threads) const;
};

/// 3x3x3 neighbours of the children of cells whose own 3x3x3 neighbours are known.
/// Fills mask (num_children, 1) and ptr (num_children + 1,).
struct Descent {
  NeighborTable cells;        // of the coarser level
  const int32_t* child_ptr;   // (num_cells + 1,)
  const uint8_t* child_mask;  // (num_cells,)
  int64_t num_cells;

  RowBlocks run(uint32_t* mask, int64_t* ptr, int threads) const;
};

/// Joins the blocks; `rows` has room for all of them.
void join(const RowBlocks& blocks, int32_t* rows, int threads);

/// Tap-major pair lists; inside a tap ascending by output row.
void pairs_by_tap(const NeighborTable& table, int64_t num_out, int kernel_volume, int64_t* tap_ptr,
                  int32_t* in_index, int32_t* out_index, int threads);

/// The same pairs read backwards: in and out exchanged, inside a tap ascending by the new output.
void transpose_pairs(const int32_t* in_index, const int32_t* out_index, const int64_t* tap_ptr,
                     int kernel_volume, int64_t num_in, int32_t* new_in, int32_t* new_out,
                     int threads);

/// The neighbour table of pair lists: passes of kernels/pair_table.h. `out` has room for all pairs.
void table_of_pairs(const CheckedPairs& pairs, const NeighborArrays& out, int threads);

/// tile_ptr[t * K + k]: first pair of tap k whose output row is in tile t or later; (tiles + 1, K).
void tile_pairs(const int32_t* out_index, const int64_t* tap_ptr, int kernel_volume,
                int64_t tile_rows, int64_t num_tiles, int64_t* tile_ptr, int threads);

}  // namespace tsl::cpu
