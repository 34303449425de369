// SPDX-License-Identifier: MIT
#include "cpu/coords.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bind/allocate.h"
#include "bind/coords.h"
#include "bind/geometry.h"
#include "bind/module.h"
#include "cpu/parallel.h"
#include "cpu/sites.h"

namespace tsl::bind {

void check_range(const TensorView& coords, const std::string& function, int threads) {
  const Coord* const data = coords.coords("check_range: coords");
  int64_t bad;
  {
    const py::gil_scoped_release release;
    bad = cpu::first_out_of_range(data, coords.shape[0], threads);
  }
  if (bad == cpu::kNoBadRow) return;
  const Coord& c = data[bad];
  throw ValueError(message(function, ": coords must have batch in 0..", kBatchMax,
                           " and x, y, z in [", kAxisMin, ", ", kAxisMax, "], got (", c.batch, ", ",
                           c.x, ", ", c.y, ", ", c.z, ") in row ", bad,
                           ". Columns are batch, x, y, z; use larger voxels or shift the cloud."));
}

namespace {

void quantize(const TensorView& points, const std::optional<TensorView>& batch,
              const std::array<double, 3>& voxel_size, const std::array<double, 3>& origin,
              const TensorView& coords, int threads) {
  const int64_t count = points.shape[0];
  const int32_t* const batch_data =
      batch ? batch->expect("quantize: batch", DType::kInt32, {count}).as<int32_t>() : nullptr;
  Coord* const out = coords.expect("quantize: coords", DType::kInt32, {count, 4}).as<Coord>();
  const bool is_double = points.dtype == DType::kFloat64;
  points.expect("quantize: points", is_double ? DType::kFloat64 : DType::kFloat32, {-1, 3});
  cpu::QuantizeResult result;
  {
    const py::gil_scoped_release release;
    const auto run = [&](const auto* xyz) {
      return cpu::quantize(xyz, batch_data, count, voxel_size.data(), origin.data(), out, threads);
    };
    result = is_double ? run(points.as<double>()) : run(points.as<float>());
  }
  if (result.bad_row == cpu::kNoBadRow) return;
  TSL_CHECK(result.is_finite, ValueError,
            "quantize: points must be finite, got NaN or infinity in row ", result.bad_row,
            ". Drop such points first, for example with torch.isfinite.");
  throw ValueError(message("quantize: points must fall into voxels [", kAxisMin, ", ", kAxisMax,
                           "] and batch 0..", kBatchMax, ", got another in row ", result.bad_row,
                           ". Use larger voxels, another origin, or crop the cloud."));
}

bool is_morton_ordered(const TensorView& coords, int threads) {
  const Coord* const data = coords.coords("is_morton_ordered: coords");
  const py::gil_scoped_release release;
  return cpu::is_morton_ordered(data, coords.shape[0], threads);
}

void unique_coords(const TensorView& coords, const TensorView& point_to_voxel,
                   const TensorView& order, const py::function& allocator, int threads) {
  const int64_t count = coords.shape[0];
  const Coord* const data = coords.coords("unique_coords: coords");
  int64_t* const voxel_of =
      point_to_voxel.expect("unique_coords: point_to_voxel", DType::kInt64, {count}).as<int64_t>();
  int64_t* const rows = order.expect("unique_coords: order", DType::kInt64, {count}).as<int64_t>();
  cpu::UniqueCoords unique;
  {
    const py::gil_scoped_release release;
    unique = cpu::unique_coords(data, count, threads);
  }
  if (!unique.all_in_range) check_range(coords, "unique_coords", threads);
  const int64_t groups = static_cast<int64_t>(unique.group_ptr.size()) - 1;
  const auto [voxels, ptr] = allocate<2>(allocator, groups);
  Coord* const voxel =
      voxels.expect("unique_coords: voxels", DType::kInt32, {groups, 4}).as<Coord>();
  int64_t* const group_ptr =
      ptr.expect("unique_coords: ptr", DType::kInt64, {groups + 1}).as<int64_t>();
  const py::gil_scoped_release release;
  std::copy(unique.group_ptr.begin(), unique.group_ptr.end(), group_ptr);
  cpu::for_each(groups, threads, [&](int64_t group) {
    for (int64_t i = group_ptr[group]; i < group_ptr[group + 1]; ++i) {
      rows[i] = unique.order[static_cast<size_t>(i)];
      voxel_of[rows[i]] = group;
    }
    voxel[group] = data[rows[group_ptr[group]]];
  });
}

void coarsen(const TensorView& coords, const TensorView& parent, const py::function& allocator,
             int threads) {
  const int64_t count = coords.shape[0];
  const Coord* const data = coords.coords("coarsen: coords");
  int32_t* const parent_of = parent.expect("coarsen: parent", DType::kInt32, {count}).as<int32_t>();
  cpu::Coarsened coarsened;
  {
    const py::gil_scoped_release release;
    coarsened = cpu::coarsen(data, count, threads);
  }
  const int64_t cells = static_cast<int64_t>(coarsened.child_mask.size());
  const auto [coarse, ptr, mask] = allocate<3>(allocator, cells);
  Coord* const cell = coarse.expect("coarsen: coarse", DType::kInt32, {cells, 4}).as<Coord>();
  int32_t* const child_ptr =
      ptr.expect("coarsen: child_ptr", DType::kInt32, {cells + 1}).as<int32_t>();
  uint8_t* const child_mask =
      mask.expect("coarsen: child_mask", DType::kUInt8, {cells}).as<uint8_t>();
  const py::gil_scoped_release release;
  std::copy(coarsened.child_ptr.begin(), coarsened.child_ptr.end(), child_ptr);
  std::copy(coarsened.child_mask.begin(), coarsened.child_mask.end(), child_mask);
  cpu::for_each(cells, threads, [&](int64_t i) {
    const Coord& child = data[child_ptr[i]];
    cell[i] = Coord{child.batch, child.x >> 1, child.y >> 1, child.z >> 1};
    std::fill(parent_of + child_ptr[i], parent_of + child_ptr[i + 1], static_cast<int32_t>(i));
  });
}

void hand_over(const cpu::Sites& sites, const char* function, const py::function& allocator) {
  TSL_CHECK(sites.all_in_range, ValueError, function,
            ": coords must leave room for the kernel inside [", kAxisMin, ", ", kAxisMax,
            "], got sites whose outputs lie outside. Shift the cloud or give ",
            "the tensor a spatial_shape.");
  const int64_t count = static_cast<int64_t>(sites.coords.size());
  const auto [out] = allocate<1>(allocator, count);
  std::copy(sites.coords.begin(), sites.coords.end(),
            out.expect("sites: coords", DType::kInt32, {count, 4}).as<Coord>());
}

void coarse_sites(const TensorView& coords, const GeometryTriples& geometry, bool cell_rule,
                  const std::optional<std::array<int64_t, 3>>& shape, const py::function& allocator,
                  int threads) {
  const Coord* const data = coords.coords("coarse_sites: coords");
  cpu::Sites sites;
  {
    const py::gil_scoped_release release;
    sites = cpu::coarse_sites(data, coords.shape[0], geometry_of(geometry),
                              cell_rule ? cpu::StrideRule::kCell : cpu::StrideRule::kFull,
                              shape ? shape->data() : nullptr, threads);
  }
  hand_over(sites, "coarse_sites", allocator);
}

void fine_sites(const TensorView& coords, const GeometryTriples& geometry,
                const std::optional<std::array<int64_t, 3>>& shape, const py::function& allocator,
                int threads) {
  const Coord* const data = coords.coords("fine_sites: coords");
  cpu::Sites sites;
  {
    const py::gil_scoped_release release;
    sites = cpu::fine_sites(data, coords.shape[0], geometry_of(geometry),
                            shape ? shape->data() : nullptr, threads);
  }
  hand_over(sites, "fine_sites", allocator);
}

std::array<int64_t, 3> extent(const GeometryTriples& geometry, const std::array<int64_t, 3>& shape,
                              bool transposed) {
  const ConvGeometry g = geometry_of(geometry);
  std::array<int64_t, 3> result{};
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t size = shape[static_cast<size_t>(axis)];
    result[static_cast<size_t>(axis)] =
        transposed ? g.fine_extent(axis, size) : g.coarse_extent(axis, size);
  }
  return result;
}

}  // namespace

void register_coords(py::module_& module) {
  module.attr("axis_min") = kAxisMin;
  module.attr("axis_max") = kAxisMax;
  module.attr("batch_max") = kBatchMax;
  module.def("quantize", &quantize, py::arg("points"), py::arg("batch"), py::arg("voxel_size"),
             py::arg("origin"), py::arg("coords"), py::arg("threads"));
  module.def("check_range", &check_range, py::arg("coords"), py::arg("function"),
             py::arg("threads"));
  module.def("is_morton_ordered", &is_morton_ordered, py::arg("coords"), py::arg("threads"));
  module.def("unique_coords", &unique_coords, py::arg("coords"), py::arg("point_to_voxel"),
             py::arg("order"), py::arg("allocate"), py::arg("threads"));
  module.def("coarsen", &coarsen, py::arg("coords"), py::arg("parent"), py::arg("allocate"),
             py::arg("threads"));
  module.def("coarse_sites", &coarse_sites, py::arg("coords"), py::arg("geometry"),
             py::arg("cell_rule"), py::arg("shape"), py::arg("allocate"), py::arg("threads"));
  module.def("fine_sites", &fine_sites, py::arg("coords"), py::arg("geometry"), py::arg("shape"),
             py::arg("allocate"), py::arg("threads"));
  module.def("extent", &extent, py::arg("geometry"), py::arg("shape"), py::arg("transposed"));
}

}  // namespace tsl::bind
