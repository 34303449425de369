// SPDX-License-Identifier: MIT
// Neighbour tables on the CPU, by hash search (any geometry) and by octree descent (3x3x3, Morton
// rows), and what is derived from them.
//
// Both searches work in two sweeps: the first fills the masks and `ptr` (so the caller can allocate
// ptr[num_out] rows), the second fills the rows.
#pragma once

#include <cstdint>

#include "core/conv_geometry.h"
#include "core/hash_table.h"
#include "core/neighbor_table.h"

namespace tsl::cpu {

/// For every coarse site, the rows of the fine sites its window holds, found in `fine`.
struct HashSearch {
  const Coord* coarse;
  int64_t num_coarse;
  HashTableView fine;
  ConvGeometry geometry;
  /// Submanifold with odd kernel: coarse and fine are the same rows, and tap t from a to b means
  /// tap K-1-t from b to a. Halves the probes.
  bool is_symmetric;

  void count(uint32_t* mask, int64_t* ptr, int threads) const;
  void fill(const uint32_t* mask, const int64_t* ptr, int32_t* rows, int threads) const;
};

/// 3x3x3 neighbours of the children of cells whose own 3x3x3 neighbours are known.
struct Descent {
  NeighborTable cells;        // of the coarser level
  const int32_t* child_ptr;   // (num_cells + 1,)
  const uint8_t* child_mask;  // (num_cells,)
  int64_t num_cells;

  void count(uint32_t* mask, int64_t* ptr, int threads) const;
  void fill(const uint32_t* mask, const int64_t* ptr, int32_t* rows, int threads) const;
};

/// Tap-major pair lists; inside a tap ascending by output row.
void pairs_by_tap(const NeighborTable& table, int64_t num_out, int kernel_volume, int64_t* tap_ptr,
                  int32_t* in_index, int32_t* out_index, int threads);

/// The same pairs read backwards: in and out exchanged, inside a tap ascending by the new output.
void transpose_pairs(const int32_t* in_index, const int32_t* out_index, const int64_t* tap_ptr,
                     int kernel_volume, int64_t num_in, int32_t* new_in, int32_t* new_out,
                     int threads);

/// tile_ptr[t * K + k]: first pair of tap k whose output row is in tile t or later; (tiles + 1, K).
void tile_pairs(const int32_t* out_index, const int64_t* tap_ptr, int kernel_volume,
                int64_t tile_rows, int64_t num_tiles, int64_t* tile_ptr, int threads);

}  // namespace tsl::cpu
