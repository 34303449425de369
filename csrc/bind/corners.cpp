// SPDX-License-Identifier: MIT
#include "kernels/corners.h"

#include <pybind11/stl.h>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/hash_table.h"
#include "bind/module.h"
#include "cpu/parallel.h"
#include "cuda/corners.h"

namespace tsl::bind {
namespace {

void corners(const TableTensors& tensors, const TensorView& cells, const TensorView& offset,
             bool renormalize, const TensorView& index, const TensorView& weight, int threads) {
  const dlpack::DeviceType device = device_of(cells, "corners: cells");
  const int64_t count = cells.shape[0];
  const Coord* const sites = cells.coords("corners: cells", device);
  offset.expect("corners: offset", offset.dtype, {count, 3}, device);
  index.expect("corners: index", DType::kInt64, {count, kCorners}, device);
  weight.expect("corners: weight", offset.dtype, {count, kCorners}, device);
  const HashTableView table = table_of(tensors, "corners", device);
  dispatch_plain(offset.dtype, "corners", [&](auto tag) {
    using T = decltype(tag);
    const Corners<T> corners{table,         sites, offset.as<T>(), renormalize, index.as<int64_t>(),
                             weight.as<T>()};
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        void* const stream = current_stream(cells);
        const py::gil_scoped_release release;
        return cuda::corners(corners, count, cells.device.id, stream);
      }
    }
    const py::gil_scoped_release release;
    cpu::for_each(count, threads, corners);
  });
}

}  // namespace

void register_corners(py::module_& module) {
  module.def("corners", &corners, py::arg("table"), py::arg("cells"), py::arg("offset"),
             py::arg("renormalize"), py::arg("index"), py::arg("weight"), py::arg("threads"));
}

}  // namespace tsl::bind
