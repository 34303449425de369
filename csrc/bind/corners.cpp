// SPDX-License-Identifier: MIT
#include "cpu/corners.h"

#include <pybind11/stl.h>

#include <array>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/hash_table.h"
#include "bind/module.h"
#include "cuda/corners.h"

namespace tsl::bind {
namespace {

using Axes = std::array<double, 3>;

template <class T>
Lattice<T> lattice_of(const Axes& origin, const Axes& voxel_size, const Axes& stride,
                      double anchor) {
  Lattice<T> lattice{};
  for (size_t axis = 0; axis < 3; ++axis) {
    lattice.origin[axis] = static_cast<T>(origin[axis]);
    lattice.voxel_size[axis] = static_cast<T>(voxel_size[axis]);
    lattice.stride[axis] = static_cast<T>(stride[axis]);
  }
  lattice.anchor = static_cast<T>(anchor);
  return lattice;
}

void corners(const TableTensors& tensors, const TensorView& xyz, const TensorView& cells,
             const Axes& origin, const Axes& voxel_size, const Axes& stride, double anchor,
             bool renormalize, const TensorView& index, const TensorView& weight, int threads) {
  const dlpack::DeviceType device = device_of(cells, "corners: cells");
  const Coord* const sites = cells.coords("corners: cells", device);
  const int64_t count = cells.shape[0];
  xyz.expect("corners: xyz", xyz.dtype, {count, 3}, device);
  index.expect("corners: index", DType::kInt64, {count, kCorners}, device);
  weight.expect("corners: weight", xyz.dtype, {count, kCorners}, device);
  const HashTableView table = table_of(tensors, "corners", device);
  dispatch<Plain>(xyz.dtype, "corners: xyz", [&](auto tag) {
    using T = decltype(tag);
    const Corners<T> found{table,         xyz.as<T>(),
                           sites,         lattice_of<T>(origin, voxel_size, stride, anchor),
                           renormalize,   index.as<int64_t>(),
                           weight.as<T>()};
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        void* const stream = current_stream(cells);
        const py::gil_scoped_release release;
        return cuda::corners(found, count, cells.device.id, stream);
      }
    }
    const py::gil_scoped_release release;
    cpu::corners(found, count, threads);
  });
}

}  // namespace

void register_corners(py::module_& module) {
  module.def("corners", &corners, py::arg("table"), py::arg("xyz"), py::arg("cells"),
             py::arg("origin"), py::arg("voxel_size"), py::arg("stride"), py::arg("anchor"),
             py::arg("renormalize"), py::arg("index"), py::arg("weight"), py::arg("threads"));
}

}  // namespace tsl::bind
