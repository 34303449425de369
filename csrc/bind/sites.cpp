// SPDX-License-Identifier: MIT
#include "cpu/sites.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bind/allocate.h"
#include "bind/geometry.h"
#include "bind/module.h"

namespace tsl::bind {
namespace {

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

void register_sites(py::module_& module) {
  module.def("coarse_sites", &coarse_sites, py::arg("coords"), py::arg("geometry"),
             py::arg("cell_rule"), py::arg("shape"), py::arg("allocate"), py::arg("threads"));
  module.def("fine_sites", &fine_sites, py::arg("coords"), py::arg("geometry"), py::arg("shape"),
             py::arg("allocate"), py::arg("threads"));
  module.def("extent", &extent, py::arg("geometry"), py::arg("shape"), py::arg("transposed"));
}

}  // namespace tsl::bind
