// SPDX-License-Identifier: MIT
#include "kernels/corners.h"

#include <pybind11/stl.h>

#include "bind/dispatch.h"
#include "bind/hash_table.h"
#include "bind/module.h"
#include "cpu/parallel.h"

namespace tsl::bind {
namespace {

void corners(const TableTensors& tensors, const TensorView& cells, const TensorView& offset,
             bool renormalize, const TensorView& index, const TensorView& weight, int threads) {
  const int64_t count = cells.shape[0];
  const Coord* const sites = cells.coords("corners: cells");
  offset.expect("corners: offset", offset.dtype, {count, 3});
  index.expect("corners: index", DType::kInt64, {count, kCorners});
  weight.expect("corners: weight", offset.dtype, {count, kCorners});
  const HashTableView table = table_of(tensors, "corners", dlpack::kCpu);
  const py::gil_scoped_release release;
  dispatch_plain(offset.dtype, "corners", [&](auto tag) {
    using T = decltype(tag);
    cpu::for_each(
        count, threads,
        Corners<T>{table, sites, offset.as<T>(), renormalize, index.as<int64_t>(), weight.as<T>()});
  });
}

}  // namespace

void register_corners(py::module_& module) {
  module.def("corners", &corners, py::arg("table"), py::arg("cells"), py::arg("offset"),
             py::arg("renormalize"), py::arg("index"), py::arg("weight"), py::arg("threads"));
}

}  // namespace tsl::bind
