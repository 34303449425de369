// SPDX-License-Identifier: MIT
// One step of the pyramid: cells of twice the size. Rows are in Morton order, so the children of a
// cell are consecutive, and cells come out in Morton order too.
//
//   number the runs of rows in one cell | write the cells | collect the octants of each
//
// Waits for the device once, for the number of cells. Dead rows, behind all others, are in no cell.
// Memory: 4 bytes a row.
#pragma once

#include <cstdint>

#include "core/coord.h"
#include "core/macros.h"
#include "kernels/passes.h"

namespace tsl {

TSL_HOST_DEVICE Coord parent_of(const Coord& c) {
  return Coord{c.batch, c.x >> 1, c.y >> 1, c.z >> 1};
}

/// 4 x + 2 y + z of a coordinate inside its cell.
TSL_HOST_DEVICE uint32_t octant_of(const Coord& c) {
  return static_cast<uint32_t>((c.x & 1) << 2 | (c.y & 1) << 1 | (c.z & 1));
}

struct CellChanges {
  const Coord* coords;

  TSL_HOST_DEVICE bool operator()(int64_t i) const {
    return !is_dead(coords[i]) && (i == 0 || !(parent_of(coords[i]) == parent_of(coords[i - 1])));
  }
};

/// What a step makes of N rows.
struct CoarsenedArrays {
  int32_t* parent;      // (N,) cell of each row
  Coord* coarse;        // (cells,)
  int32_t* child_ptr;   // (cells + 1,) first row of each cell
  uint8_t* child_mask;  // (cells,) bit 4 x + 2 y + z: that octant is occupied
};

/// Item i is a row; one item more ends the last cell where no dead row does.
struct WriteCells {
  const Coord* coords;
  int64_t count;
  Runs cells;
  CoarsenedArrays out;

  TSL_HOST_DEVICE bool is_behind(int64_t i) const { return i == count || is_dead(coords[i]); }

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const bool is_end = is_behind(i) && (i == 0 || !is_behind(i - 1));
    if (is_end && cells.size() <= cells.room) {
      out.child_ptr[cells.size()] = static_cast<int32_t>(i);
    }
    if (i == count) return;
    out.parent[i] = is_behind(i) ? 0 : cells.written_run_of(i);
    if (!cells.begins(i)) return;
    const int32_t cell = cells.run_of(i);
    if (cell <= cells.room) out.child_ptr[cell] = static_cast<int32_t>(i);
    if (cell < cells.room) out.coarse[cell] = parent_of(coords[i]);
  }
};

struct CollectOctants {
  const Coord* coords;
  CoarsenedArrays out;

  TSL_HOST_DEVICE void operator()(int64_t cell) const {
    uint32_t mask = 0;
    for (int32_t row = out.child_ptr[cell]; row < out.child_ptr[cell + 1]; ++row) {
      mask |= 1u << octant_of(coords[row]);
    }
    out.child_mask[cell] = static_cast<uint8_t>(mask);
  }
};

/// allocate(cells, &out) sets coarse, child_ptr and child_mask.
template <class Executor, class Allocate>
void coarsen(Executor& executor, const Coord* coords, int64_t count, CoarsenedArrays out,
             const Allocate& allocate) {
  const auto [before] = scratch<int32_t>(executor, {count + 1});
  const Runs cells = number_runs(executor, count, CellChanges{coords}, before);
  const auto [num_cells] = settle<1>(executor, before + count, {executor.capacity()});
  allocate(num_cells, &out);
  executor.for_each(count + 1, WriteCells{coords, count, cells, out});
  write_dead(executor, cells, out.coarse, out.child_ptr);
  executor.for_each(num_cells, CollectOctants{coords, out});
}

}  // namespace tsl
