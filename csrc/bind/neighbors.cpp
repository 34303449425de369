// SPDX-License-Identifier: MIT
#include "cpu/neighbors.h"

#include <pybind11/stl.h>

#include "bind/allocate.h"
#include "bind/geometry.h"
#include "bind/hash_table.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "core/descent.h"
#include "cpu/parallel.h"
#include "cpu/sparse_conv.h"

namespace tsl::bind {
namespace {

/// Runs a search; `mask` and `ptr` are the caller's, the rows come from the allocator.
template <class Search>
void run_search(const Search& search, const TensorView& mask, const TensorView& ptr,
                const py::function& allocator, int threads) {
  uint32_t* const mask_data = mask.as<uint32_t>();
  int64_t* const ptr_data = ptr.as<int64_t>();
  cpu::RowBlocks blocks;
  {
    const py::gil_scoped_release release;
    blocks = search.run(mask_data, ptr_data, threads);
  }
  const int64_t pairs = ptr_data[ptr.shape[0] - 1];
  const auto [rows] = allocate<1>(allocator, pairs);
  int32_t* const row_data = rows.expect("neighbors: rows", DType::kInt32, {pairs}).as<int32_t>();
  const py::gil_scoped_release release;
  cpu::join(blocks, row_data, threads);
}

void neighbors_search(const TensorView& coords, const TableTensors& table,
                      const GeometryTriples& geometry, bool inverse, const TensorView& mask,
                      const TensorView& ptr, const py::function& allocator, int threads) {
  const int64_t count = coords.shape[0];
  const ConvGeometry g = geometry_of(geometry);
  const Coord* const sites = coords.coords("neighbors_search: coords");
  const HashTableView view = table_of(table, "neighbors_search", dlpack::kCpu);
  mask.expect("neighbors_search: mask", DType::kInt32, {count, mask_words(g.kernel_volume())});
  ptr.expect("neighbors_search: ptr", DType::kInt64, {count + 1});
  if (inverse) {
    run_search(cpu::InverseSearch{sites, count, view, g}, mask, ptr, allocator, threads);
  } else {
    run_search(cpu::HashSearch{sites, count, view, g}, mask, ptr, allocator, threads);
  }
}

void neighbors_descend(const TensorView& cell_mask, const TensorView& cell_ptr,
                       const TensorView& cell_rows, const TensorView& child_ptr,
                       const TensorView& child_mask, const TensorView& mask, const TensorView& ptr,
                       const py::function& allocator, int threads) {
  const int64_t cells = cell_mask.shape[0];
  const int64_t children = mask.shape[0];
  mask.expect("neighbors_descend: mask", DType::kInt32, {-1, 1});
  ptr.expect("neighbors_descend: ptr", DType::kInt64, {children + 1});
  const cpu::Descent descent{
      neighbor_table({cell_mask, cell_ptr, cell_rows}, kDescentTaps, "neighbors_descend", threads),
      child_ptr.expect("neighbors_descend: child_ptr", DType::kInt32, {cells + 1}).as<int32_t>(),
      child_mask.expect("neighbors_descend: child_mask", DType::kUInt8, {cells}).as<uint8_t>(),
      cells};
  TSL_CHECK(descent.child_ptr[cells] == children, ValueError,
            "neighbors_descend: mask must have one row per child, got ", children, " for ",
            descent.child_ptr[cells], " children. Pass the level that was coarsened.");
  check_rows(cell_rows, 0, cells, "neighbors_descend: rows", threads);
  const int64_t bad = cpu::find_first(cells, threads, [&](int64_t cell) {
    const int64_t begin = cell == 0 ? 0 : descent.child_ptr[cell];
    return descent.child_ptr[cell] != begin ||
           descent.child_ptr[cell + 1] - begin != count_bits(descent.child_mask[cell]);
  });
  TSL_CHECK(bad == cpu::kNoBadRow, ValueError,
            "neighbors_descend: child_ptr must count the bits of ",
            "child_mask, got another count in cell ", bad, ". Pass what coarsen returned.");
  run_search(descent, mask, ptr, allocator, threads);
}

void pairs_by_tap(const TensorView& mask, const TensorView& ptr, const TensorView& rows,
                  const TensorView& in_index, const TensorView& out_index,
                  const TensorView& tap_ptr, int threads) {
  const int64_t num_out = mask.shape[0];
  const int64_t pairs = rows.shape[0];
  const int volume = static_cast<int>(tap_ptr.shape[0] - 1);
  tap_ptr.expect("pairs_by_tap: tap_ptr", DType::kInt64, {-1});
  TSL_CHECK(volume > 0, ValueError, "pairs_by_tap: kernel_volume must be positive, got ", volume,
            ". Pass that of the map.");
  const NeighborTable table = neighbor_table({mask, ptr, rows}, volume, "pairs_by_tap", threads);
  int32_t* const in =
      in_index.expect("pairs_by_tap: in_index", DType::kInt32, {pairs}).as<int32_t>();
  int32_t* const out =
      out_index.expect("pairs_by_tap: out_index", DType::kInt32, {pairs}).as<int32_t>();
  const py::gil_scoped_release release;
  cpu::pairs_by_tap(table, num_out, volume, tap_ptr.as<int64_t>(), in, out, threads);
}

void transpose_pairs(const TensorView& in_index, const TensorView& out_index,
                     const TensorView& tap_ptr, int64_t num_in, const TensorView& new_in,
                     const TensorView& new_out, int threads) {
  const int64_t pairs = in_index.shape[0];
  const int volume = static_cast<int>(tap_ptr.shape[0] - 1);
  const auto index = [&](const TensorView& view, const char* argument) {
    return view.expect(argument, DType::kInt32, {pairs}).as<int32_t>();
  };
  const int32_t* const in = index(in_index, "transpose_pairs: in_index");
  const int32_t* const out = index(out_index, "transpose_pairs: out_index");
  int32_t* const to_in = index(new_in, "transpose_pairs: new_in");
  int32_t* const to_out = index(new_out, "transpose_pairs: new_out");
  const int64_t* const ptr =
      tap_ptr.expect("transpose_pairs: tap_ptr", DType::kInt64, {-1}).as<int64_t>();
  const py::gil_scoped_release release;
  check_rows(in_index, 0, num_in, "transpose_pairs: in_index", threads);
  check_ptr(tap_ptr, pairs, "transpose_pairs: tap_ptr", threads);
  cpu::transpose_pairs(in, out, ptr, volume, num_in, to_in, to_out, threads);
}

void tile_pairs(const TensorView& out_index, const TensorView& tap_ptr, int64_t tile_rows,
                const TensorView& tile_ptr, int threads) {
  const int volume = static_cast<int>(tap_ptr.shape[0] - 1);
  const int64_t tiles = tile_ptr.shape[0] - 1;
  const int32_t* const out =
      out_index.expect("tile_pairs: out_index", DType::kInt32, {-1}).as<int32_t>();
  const int64_t* const ptr =
      tap_ptr.expect("tile_pairs: tap_ptr", DType::kInt64, {-1}).as<int64_t>();
  int64_t* const to =
      tile_ptr.expect("tile_pairs: tile_ptr", DType::kInt64, {-1, volume}).as<int64_t>();
  TSL_CHECK(tile_rows > 0, ValueError, "tile_pairs: tile_rows must be positive, got ", tile_rows,
            ". Use tile_rows(num_out).");
  const py::gil_scoped_release release;
  check_ptr(tap_ptr, out_index.shape[0], "tile_pairs: tap_ptr", threads);
  cpu::tile_pairs(out, ptr, volume, tile_rows, tiles, to, threads);
}

}  // namespace

void register_neighbors(py::module_& module) {
  module.def("neighbors_search", &neighbors_search, py::arg("coords"), py::arg("table"),
             py::arg("geometry"), py::arg("inverse"), py::arg("mask"), py::arg("ptr"),
             py::arg("allocate"), py::arg("threads"));
  module.def("neighbors_descend", &neighbors_descend, py::arg("cell_mask"), py::arg("cell_ptr"),
             py::arg("cell_rows"), py::arg("child_ptr"), py::arg("child_mask"), py::arg("mask"),
             py::arg("ptr"), py::arg("allocate"), py::arg("threads"));
  module.def("pairs_by_tap", &pairs_by_tap, py::arg("mask"), py::arg("ptr"), py::arg("rows"),
             py::arg("in_index"), py::arg("out_index"), py::arg("tap_ptr"), py::arg("threads"));
  module.def("transpose_pairs", &transpose_pairs, py::arg("in_index"), py::arg("out_index"),
             py::arg("tap_ptr"), py::arg("num_in"), py::arg("new_in"), py::arg("new_out"),
             py::arg("threads"));
  module.def("tile_rows", &cpu::tile_rows_for, py::arg("num_out"));
  module.def("tile_pairs", &tile_pairs, py::arg("out_index"), py::arg("tap_ptr"),
             py::arg("tile_rows"), py::arg("tile_ptr"), py::arg("threads"));
}

}  // namespace tsl::bind
