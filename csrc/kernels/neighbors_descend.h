// SPDX-License-Identifier: MIT
// 3x3x3 neighbours of the children of cells whose own 3x3x3 neighbours are known, see
// core/descent.h.
//
//   masks of the children, an item a cell | count and sum | rows, an item one child and one tap
//
// No search, no hashing. Waits for the device once, for the number of pairs. Memory: 5 bytes a
// child.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/descent.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/neighbor_rows.h"
#include "kernels/passes.h"

namespace tsl {

struct DescentCells {
  NeighborTable table;
  const int32_t* child_ptr;   // (num_cells + 1,)
  const uint8_t* child_mask;  // (num_cells,)
  int64_t num_cells;
  int64_t num_pairs;
  int64_t num_children;  // child_ptr may end before: behind are dead rows
};

/// An item is a cell, and one item more.
struct CheckDescent {
  DescentCells cells;

  TSL_HOST_DEVICE void operator()(int64_t cell) const {
    CheckTable{cells.table, cells.num_cells, cells.num_pairs, kDescentTaps}(cell);
    if (cell == cells.num_cells) return;
    for (int64_t n = cells.table.ptr[cell]; n < cells.table.ptr[cell + 1]; ++n) {
      if (cells.table.rows[n] < 0 || cells.table.rows[n] >= cells.num_cells) {
        refuse_row("neighbors_descend: rows must be rows of the cells", cell,
                   "Point at existing rows.");
      }
    }
    const int64_t begin = cells.child_ptr[cell];
    const int64_t end = cells.child_ptr[cell + 1];
    const bool is_first = cell > 0 || begin == 0;
    if (begin < 0 || end > cells.num_children || !is_first ||
        end - begin != count_bits(cells.child_mask[cell])) {
      refuse_row("neighbors_descend: child_ptr must count the bits of child_mask", cell,
                 "Pass what coarsen returned.");
    }
  }
};

/// Where a child is.
struct ChildPlaces {
  int32_t* cell;
  uint8_t* octant;
};

struct MarkChildren {
  DescentCells cells;
  ChildPlaces children;
  uint32_t* mask;

  TSL_HOST_DEVICE void operator()(int64_t cell) const {
    uint64_t block = 0;
    cells.table.for_each(cell, [&](int tap, int32_t neighbor) {
      block |= block_part(tap).place(block_from_children(cells.child_mask[neighbor]));
    });
    int32_t child = cells.child_ptr[cell];
    for (uint32_t octants = cells.child_mask[cell]; octants; octants &= octants - 1, ++child) {
      const int octant = lowest_bit(octants);
      mask[child] = taps_from_window(block >> window_shift(octant));
      children.cell[child] = static_cast<int32_t>(cell);
      children.octant[child] = static_cast<uint8_t>(octant);
    }
  }
};

struct WriteChildRows {
  DescentCells cells;
  ChildPlaces children;
  NeighborArrays out;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t child = i / kDescentTaps;
    const int tap = static_cast<int>(i % kDescentTaps);
    const NeighborTable table = out.table();
    if (!table.has(child, tap)) return;
    const BlockCell at = block_cell(children.octant[child], tap);
    const int32_t cell = children.cell[child];
    const int32_t neighbor = cells.table.rows[cells.table.place(cell, at.cell_tap)];
    out.rows[table.place(child, tap)] =
        cells.child_ptr[neighbor] + count_bits(cells.child_mask[neighbor] & at.octants_before);
  }
};

/// allocate(pairs, &out) sets rows.
template <class Executor, class Allocate>
void neighbors_descend(Executor& executor, const DescentCells& cells, NeighborArrays out,
                       const Allocate& allocate) {
  const int64_t count = cells.num_children;
  const auto [cell, octant] = scratch<int32_t, uint8_t>(executor, {count, count});
  const ChildPlaces children{cell, octant};
  executor.for_each(cells.num_cells + 1, CheckDescent{cells});
  executor.for_each(count, Fill<uint32_t>{out.mask, 0});
  executor.for_each(cells.num_cells, MarkChildren{cells, children, out.mask});
  allocate_rows(executor, count, allocate, &out);
  executor.for_each(count * kDescentTaps, WriteChildRows{cells, children, out});
}

}  // namespace tsl
