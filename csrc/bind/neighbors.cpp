// SPDX-License-Identifier: MIT
#include "cpu/neighbors.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "bind/allocate.h"
#include "bind/coords.h"
#include "bind/device.h"
#include "bind/geometry.h"
#include "bind/hash_table.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "core/descent.h"
#include "cpu/parallel.h"
#include "cpu/sparse_conv.h"
#include "cuda/neighbors.h"

namespace tsl::bind {
namespace {

void check_children(bool fits, int64_t children, int64_t counted) {
  TSL_CHECK(fits, ValueError, "neighbors_descend: mask must have one row per child, got ", children,
            " for ", counted, " children. Pass the level that was coarsened.");
}

/// Has Python allocate the rows of a table.
class RowsAllocator {
 public:
  RowsAllocator(const py::function& allocator, dlpack::DeviceType device)
      : allocator_(allocator), device_(device) {}

  int32_t* operator()(int64_t pairs) const {
    const py::gil_scoped_acquire acquire;
    const auto [rows] = allocate<1>(allocator_, pairs);
    return rows.expect("neighbors: rows", DType::kInt32, {pairs}, device_).as<int32_t>();
  }

  void operator()(int64_t pairs, NeighborArrays* out) const { out->rows = (*this)(pairs); }

 private:
  const py::function& allocator_;
  dlpack::DeviceType device_;
};

/// Runs a search on the CPU, without the lock of Python.
template <class Search>
void run_search(const Search& search, const NeighborArrays& out, int64_t num_out,
                const RowsAllocator& allocate_rows, int threads) {
  const py::gil_scoped_release release;
  const cpu::RowBlocks blocks = search.run(out.mask, out.ptr, threads);
  cpu::join(blocks, allocate_rows(out.ptr[num_out]), threads);
}

void neighbors_search(const TensorView& coords, const TableTensors& table,
                      const GeometryTriples& geometry, bool inverse, const TensorView& mask,
                      const TensorView& ptr, const py::function& allocator,
                      const py::function& scratch, int threads, int64_t capacity,
                      const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(coords, "neighbors_search: coords");
  const Capacity room = capacity_of(capacity, overflow, "neighbors_search", device);
  const int64_t count = coords.shape[0];
  const ConvGeometry g = geometry_of(geometry);
  const int words = mask_words(g.kernel_volume());
  const Coord* const sites = coords.coords("neighbors_search: coords", device);
  const HashTableView view = table_of(table, "neighbors_search", device);
  mask.expect("neighbors_search: mask", DType::kInt32, {count, words}, device);
  ptr.expect("neighbors_search: ptr", DType::kInt64, {count + 1}, device);
  const NeighborArrays out{mask.as<uint32_t>(), ptr.as<int64_t>(), nullptr, words};
  const RowsAllocator allocate_rows(allocator, device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const WindowSearch search{sites, view, g, inverse};
      return CudaCall(coords, scratch, room)([&](const cuda::Call& call) {
        cuda::neighbors_search(call, search, count, out, allocate_rows);
      });
    }
  }
  check_live_range(coords, "neighbors_search", threads);
  if (inverse) {
    run_search(cpu::InverseSearch{sites, count, view, g}, out, count, allocate_rows, threads);
  } else {
    run_search(cpu::HashSearch{sites, count, view, g}, out, count, allocate_rows, threads);
  }
}

void neighbors_descend(const TensorView& cell_mask, const TensorView& cell_ptr,
                       const TensorView& cell_rows, const TensorView& child_ptr,
                       const TensorView& child_mask, const TensorView& mask, const TensorView& ptr,
                       const py::function& allocator, const py::function& scratch, int threads,
                       int64_t capacity, const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(cell_mask, "neighbors_descend: mask");
  const Capacity room = capacity_of(capacity, overflow, "neighbors_descend", device);
  const int64_t cells = cell_mask.shape[0];
  const int64_t children = mask.shape[0];
  mask.expect("neighbors_descend: mask", DType::kInt32, {-1, 1}, device);
  ptr.expect("neighbors_descend: ptr", DType::kInt64, {children + 1}, device);
  const NeighborArrays out{mask.as<uint32_t>(), ptr.as<int64_t>(), nullptr, 1};
  const RowsAllocator allocate_rows(allocator, device);
  const int32_t* const first_child =
      child_ptr.expect("neighbors_descend: child_ptr", DType::kInt32, {cells + 1}, device)
          .as<int32_t>();
  const uint8_t* const octants =
      child_mask.expect("neighbors_descend: child_mask", DType::kUInt8, {cells}, device)
          .as<uint8_t>();
  const TableArrays table{cell_mask, cell_ptr, cell_rows};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      check_children(cells > 0 || children == 0, children, 0);
      const DescentCells descent{described_table(table, kDescentTaps, "neighbors_descend", device),
                                 first_child,
                                 octants,
                                 cells,
                                 cell_rows.shape[0],
                                 children};
      return CudaCall(cell_mask, scratch, room)([&](const cuda::Call& call) {
        cuda::neighbors_descend(call, descent, out, allocate_rows);
      });
    }
  }
  const cpu::Descent descent{neighbor_table(table, kDescentTaps, "neighbors_descend", threads),
                             first_child, octants, cells};
  const int64_t counted = first_child[cells];
  check_children(counted >= 0 && counted <= children, children, counted);
  check_rows(cell_rows.head(cell_ptr.as<int64_t>()[cells]), 0, cells, "neighbors_descend: rows",
             threads);
  const int64_t bad = cpu::find_first(cells, threads, [&](int64_t cell) {
    const int64_t begin = cell == 0 ? 0 : first_child[cell];
    return first_child[cell] != begin || first_child[cell + 1] - begin != count_bits(octants[cell]);
  });
  TSL_CHECK(bad == cpu::kNoBadRow, ValueError,
            "neighbors_descend: child_ptr must count the bits of ",
            "child_mask, got another count in cell ", bad, ". Pass what coarsen returned.");
  run_search(descent, out, counted, allocate_rows, threads);
  std::fill(out.mask + counted, out.mask + children, 0u);
  std::fill(out.ptr + counted + 1, out.ptr + children + 1, out.ptr[counted]);
}

void pairs_by_tap(const TensorView& mask, const TensorView& ptr, const TensorView& rows,
                  const TensorView& in_index, const TensorView& out_index,
                  const TensorView& tap_ptr, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(mask, "pairs_by_tap: mask");
  const int64_t num_out = mask.shape[0];
  const int64_t pairs = rows.shape[0];
  const int volume = static_cast<int>(tap_ptr.shape[0] - 1);
  tap_ptr.expect("pairs_by_tap: tap_ptr", DType::kInt64, {-1}, device);
  TSL_CHECK(volume > 0, ValueError, "pairs_by_tap: kernel_volume must be positive, got ", volume,
            ". Pass that of the map.");
  const TableArrays arrays{mask, ptr, rows};
  const PairLists out{
      in_index.expect("pairs_by_tap: in_index", DType::kInt32, {pairs}, device).as<int32_t>(),
      out_index.expect("pairs_by_tap: out_index", DType::kInt32, {pairs}, device).as<int32_t>(),
      tap_ptr.as<int64_t>()};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const NeighborTable table = described_table(arrays, volume, "pairs_by_tap", device);
      return CudaCall(mask, scratch)([&](const cuda::Call& call) {
        cuda::pairs_by_tap(call, table, num_out, pairs, volume, out);
      });
    }
  }
  const NeighborTable table = neighbor_table(arrays, volume, "pairs_by_tap", threads);
  const py::gil_scoped_release release;
  cpu::pairs_by_tap(table, num_out, volume, out.tap_ptr, out.in_index, out.out_index, threads);
}

/// Pair lists from Python; the entries are not checked.
PairsView pairs_view(const TensorView& in_index, const TensorView& out_index,
                     const TensorView& tap_ptr, const char* function, dlpack::DeviceType device) {
  const int64_t pairs = out_index.shape[0];
  in_index.expect(message(function, ": in_index").c_str(), DType::kInt32, {pairs}, device);
  out_index.expect(message(function, ": out_index").c_str(), DType::kInt32, {-1}, device);
  tap_ptr.expect(message(function, ": tap_ptr").c_str(), DType::kInt64, {-1}, device);
  TSL_CHECK(tap_ptr.shape[0] > 1, ValueError, function,
            ": tap_ptr must have an entry for each tap and one for the end, got ", tap_ptr.shape[0],
            ". Pass that of the map.");
  return PairsView{in_index.as<int32_t>(), out_index.as<int32_t>(), tap_ptr.as<int64_t>(), pairs,
                   static_cast<int>(tap_ptr.shape[0] - 1)};
}

void transpose_pairs(const TensorView& in_index, const TensorView& out_index,
                     const TensorView& tap_ptr, int64_t num_in, const TensorView& new_in,
                     const TensorView& new_out, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(in_index, "transpose_pairs: in_index");
  const PairsView pairs = pairs_view(in_index, out_index, tap_ptr, "transpose_pairs", device);
  const auto index = [&](const TensorView& view, const char* argument) {
    return view.expect(argument, DType::kInt32, {pairs.num_pairs}, device).as<int32_t>();
  };
  int32_t* const to_in = index(new_in, "transpose_pairs: new_in");
  int32_t* const to_out = index(new_out, "transpose_pairs: new_out");
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return CudaCall(in_index, scratch)([&](const cuda::Call& call) {
        cuda::transpose_pairs(call, pairs, num_in, to_in, to_out);
      });
    }
  }
  const py::gil_scoped_release release;
  const int64_t used =
      check_ptr_within(tap_ptr, pairs.num_pairs, "transpose_pairs: tap_ptr", threads);
  check_rows(in_index.head(used), 0, num_in, "transpose_pairs: in_index", threads);
  cpu::transpose_pairs(pairs.in_index, pairs.out_index, pairs.tap_ptr, pairs.kernel_volume, num_in,
                       to_in, to_out, threads);
}

void table_of_pairs(const TensorView& in_index, const TensorView& out_index,
                    const TensorView& tap_ptr, const TensorView& mask, const TensorView& ptr,
                    const TensorView& rows, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(in_index, "table_of_pairs: in_index");
  const PairsView lists = pairs_view(in_index, out_index, tap_ptr, "table_of_pairs", device);
  const int words = mask_words(lists.kernel_volume);
  const int64_t num_out = mask.shape[0];
  mask.expect("table_of_pairs: mask", DType::kInt32, {-1, words}, device);
  ptr.expect("table_of_pairs: ptr", DType::kInt64, {num_out + 1}, device);
  rows.expect("table_of_pairs: rows", DType::kInt32, {lists.num_pairs}, device);
  constexpr int64_t kAnyInput = std::numeric_limits<int64_t>::max();  // who reads the table checks
  const CheckedPairs pairs{lists.in_index,  lists.out_index, lists.tap_ptr, lists.tap_ptr + 1,
                           lists.num_pairs, kAnyInput,       num_out,       lists.kernel_volume};
  const NeighborArrays out{mask.as<uint32_t>(), ptr.as<int64_t>(), rows.as<int32_t>(), words};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return CudaCall(in_index, scratch)(
          [&](const cuda::Call& call) { cuda::table_of_pairs(call, pairs, out); });
    }
  }
  const py::gil_scoped_release release;
  cpu::table_of_pairs(pairs, out, threads);
}

void tile_pairs(const TensorView& out_index, const TensorView& tap_ptr, int64_t tile_rows,
                const TensorView& tile_ptr, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(out_index, "tile_pairs: out_index");
  const PairsView pairs = pairs_view(out_index, out_index, tap_ptr, "tile_pairs", device);
  const int64_t tiles = tile_ptr.shape[0] - 1;
  int64_t* const to =
      tile_ptr.expect("tile_pairs: tile_ptr", DType::kInt64, {-1, pairs.kernel_volume}, device)
          .as<int64_t>();
  TSL_CHECK(tile_rows > 0, ValueError, "tile_pairs: tile_rows must be positive, got ", tile_rows,
            ". Use tile_rows(num_out).");
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return CudaCall(out_index, scratch)([&](const cuda::Call& call) {
        cuda::tile_pairs(call, TilePairs{pairs, tile_rows, to}, tiles);
      });
    }
  }
  const py::gil_scoped_release release;
  check_ptr_within(tap_ptr, pairs.num_pairs, "tile_pairs: tap_ptr", threads);
  cpu::tile_pairs(pairs.out_index, pairs.tap_ptr, pairs.kernel_volume, tile_rows, tiles, to,
                  threads);
}

}  // namespace

void register_neighbors(py::module_& module) {
  module.def("neighbors_search", &neighbors_search, py::arg("coords"), py::arg("table"),
             py::arg("geometry"), py::arg("inverse"), py::arg("mask"), py::arg("ptr"),
             py::arg("allocate"), py::arg("scratch"), py::arg("threads"), py::arg("capacity") = -1,
             py::arg("overflow") = py::none());
  module.def("neighbors_descend", &neighbors_descend, py::arg("cell_mask"), py::arg("cell_ptr"),
             py::arg("cell_rows"), py::arg("child_ptr"), py::arg("child_mask"), py::arg("mask"),
             py::arg("ptr"), py::arg("allocate"), py::arg("scratch"), py::arg("threads"),
             py::arg("capacity") = -1, py::arg("overflow") = py::none());
  module.def("pairs_by_tap", &pairs_by_tap, py::arg("mask"), py::arg("ptr"), py::arg("rows"),
             py::arg("in_index"), py::arg("out_index"), py::arg("tap_ptr"), py::arg("scratch"),
             py::arg("threads"));
  module.def("transpose_pairs", &transpose_pairs, py::arg("in_index"), py::arg("out_index"),
             py::arg("tap_ptr"), py::arg("num_in"), py::arg("new_in"), py::arg("new_out"),
             py::arg("scratch"), py::arg("threads"));
  module.def("table_of_pairs", &table_of_pairs, py::arg("in_index"), py::arg("out_index"),
             py::arg("tap_ptr"), py::arg("mask"), py::arg("ptr"), py::arg("rows"),
             py::arg("scratch"), py::arg("threads"));
  module.def("tile_rows", &cpu::tile_rows_for, py::arg("num_out"));
  module.def("tile_pairs", &tile_pairs, py::arg("out_index"), py::arg("tap_ptr"),
             py::arg("tile_rows"), py::arg("tile_ptr"), py::arg("scratch"), py::arg("threads"));
}

}  // namespace tsl::bind
