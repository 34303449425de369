// SPDX-License-Identifier: MIT
// Coordinates on the CPU: quantisation, row order, uniqueness, and the stride-2 pyramid.
#pragma once

#include <cstdint>
#include <vector>

#include "core/coord.h"
#include "cpu/parallel.h"
#include "kernels/quantize.h"

namespace tsl::cpu {

using tsl::QuantizeResult;

/// coords[i] = (batch[i], floor((xyz[i] - origin) / voxel_size)), computed in the type of the
/// points. `batch` may be null (all zero). Stops being meaningful behind the first bad row.
template <class T>
QuantizeResult quantize(const T* xyz, const int32_t* batch, int64_t count,
                        const double voxel_size[3], const double origin[3], Coord* coords,
                        int threads);

/// Index of the first coordinate outside the representable range, or kNoBadRow.
int64_t first_out_of_range(const Coord* coords, int64_t count, int threads);

/// True if rows strictly ascend in Morton order, which also makes them unique.
bool is_morton_ordered(const Coord* coords, int64_t count, int threads);

/// Rows grouped by equal coordinates, groups in Morton order, rows inside a group in input order.
struct UniqueCoords {
  std::vector<int32_t> order;      // (count,) rows, group after group
  std::vector<int32_t> group_ptr;  // (groups + 1,) into order
  bool all_in_range = true;        // if not, the rest is empty
};

UniqueCoords unique_coords(const Coord* coords, int64_t count, int threads);

/// One step of the pyramid: cells of twice the size. Rows must be in Morton order, so children of a
/// cell are consecutive and cells come out in Morton order too. Dead rows at the end are in none.
struct Coarsened {
  std::vector<int32_t> child_ptr;   // (cells + 1,) first child row of each cell
  std::vector<uint8_t> child_mask;  // (cells,) bit 4 x + 2 y + z: that octant is occupied
};

Coarsened coarsen(const Coord* coords, int64_t count, int threads);

}  // namespace tsl::cpu
