// SPDX-License-Identifier: MIT
#include "cpu/sites.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bind/allocate.h"
#include "bind/coords.h"
#include "bind/device.h"
#include "bind/geometry.h"
#include "bind/module.h"
#include "cuda/sites.h"
#include "kernels/sites.h"

namespace tsl::bind {
namespace {

using Shape = std::optional<std::array<int64_t, 3>>;

cpu::Sites sites_on_cpu(const Coord* coords, int64_t count, const ConvGeometry& geometry,
                        SiteKind kind, const int64_t* shape, int threads) {
  if (kind == SiteKind::kFine) return cpu::fine_sites(coords, count, geometry, shape, threads);
  const bool is_cell = kind == SiteKind::kCell;
  return cpu::coarse_sites(coords, count, geometry,
                           is_cell ? cpu::StrideRule::kCell : cpu::StrideRule::kFull, shape,
                           threads);
}

void find_sites(const TensorView& coords, const GeometryTriples& triples, SiteKind kind,
                const Shape& shape, const char* function, const py::function& allocator,
                const py::function& scratch, int threads, int64_t capacity,
                const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(coords, message(function, ": coords").c_str());
  const Capacity room = capacity_of(capacity, overflow, function, device);
  const int64_t count = coords.shape[0];
  const Coord* const data = coords.coords(message(function, ": coords").c_str(), device);
  const ConvGeometry geometry = geometry_of(triples);
  const int64_t* const limit = shape ? shape->data() : nullptr;
  const auto allocate_sites = [&](int64_t sites) {
    const py::gil_scoped_acquire acquire;
    const auto [out] = allocate<1>(allocator, sites);
    return out.expect("sites: coords", DType::kInt32, {sites, 4}, device).as<Coord>();
  };
  const auto run = [&] {
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        const SiteProposals proposals = site_proposals(data, geometry, kind, limit);
        return CudaCall(coords, scratch, room)([&](const cuda::Call& call) {
          return cuda::find_sites(call, proposals, count, allocate_sites);
        });
      }
    }
    check_live_range(coords, function, threads);
    const py::gil_scoped_release release;
    const cpu::Sites sites = sites_on_cpu(data, count, geometry, kind, limit, threads);
    if (!sites.all_in_range) return false;
    std::copy(sites.coords.begin(), sites.coords.end(),
              allocate_sites(static_cast<int64_t>(sites.coords.size())));
    return true;
  };
  TSL_CHECK(run(), ValueError, function, ": coords must leave room for the kernel inside [",
            kAxisMin, ", ", kAxisMax, "], got sites whose outputs lie outside. Shift the cloud or ",
            "give the tensor a spatial_shape.");
}

void coarse_sites(const TensorView& coords, const GeometryTriples& geometry, bool cell_rule,
                  const Shape& shape, const py::function& allocator, const py::function& scratch,
                  int threads, int64_t capacity, const std::optional<TensorView>& overflow) {
  find_sites(coords, geometry, cell_rule ? SiteKind::kCell : SiteKind::kFull, shape, "coarse_sites",
             allocator, scratch, threads, capacity, overflow);
}

void fine_sites(const TensorView& coords, const GeometryTriples& geometry, const Shape& shape,
                const py::function& allocator, const py::function& scratch, int threads,
                int64_t capacity, const std::optional<TensorView>& overflow) {
  find_sites(coords, geometry, SiteKind::kFine, shape, "fine_sites", allocator, scratch, threads,
             capacity, overflow);
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
             py::arg("cell_rule"), py::arg("shape"), py::arg("allocate"), py::arg("scratch"),
             py::arg("threads"), py::arg("capacity") = -1, py::arg("overflow") = py::none());
  module.def("fine_sites", &fine_sites, py::arg("coords"), py::arg("geometry"), py::arg("shape"),
             py::arg("allocate"), py::arg("scratch"), py::arg("threads"), py::arg("capacity") = -1,
             py::arg("overflow") = py::none());
  module.def("extent", &extent, py::arg("geometry"), py::arg("shape"), py::arg("transposed"));
}

}  // namespace tsl::bind
