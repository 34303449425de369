// SPDX-License-Identifier: MIT
// The compiled module. Not for users: torchsparse_lite/_native.py is its only importer.
#include "bind/module.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bind/device.h"
#include "core/check.h"
#include "cpu/simd/kernels.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const tsl::TypeError& error) {
      py::set_error(PyExc_TypeError, error.what());
    } catch (const tsl::ValueError& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const tsl::MachineError& error) {
      py::set_error(PyExc_RuntimeError, error.what());
    }
  });

  module.attr("has_cuda") = tsl::bind::kHasCuda;
  module.def("simd_kernels", [] {
    std::vector<std::string> names;
    for (auto table = tsl::cpu::available_simd_kernels(); *table; ++table) {
      names.emplace_back((*table)->name);
    }
    return names;
  });

  tsl::bind::register_coords(module);
  tsl::bind::register_sites(module);
  tsl::bind::register_hash_table(module);
  tsl::bind::register_corners(module);
  tsl::bind::register_neighbors(module);
  tsl::bind::register_sparse_conv(module);
  tsl::bind::register_gemm(module);
  tsl::bind::register_channelwise_conv(module);
  tsl::bind::register_reduce(module);
  tsl::bind::register_max_pool(module);
  tsl::bind::register_columns(module);
  tsl::bind::register_point_search(module);
}
