// SPDX-License-Identifier: MIT
// One register_<concept>(module) per bind/<concept>.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace tsl::bind {

void register_coords(pybind11::module_& module);
void register_hash_table(pybind11::module_& module);
void register_corners(pybind11::module_& module);
void register_neighbors(pybind11::module_& module);
void register_gemm(pybind11::module_& module);
void register_sites(pybind11::module_& module);
void register_sparse_conv(pybind11::module_& module);
void register_channelwise_conv(pybind11::module_& module);
void register_reduce(pybind11::module_& module);
void register_max_pool(pybind11::module_& module);
void register_columns(pybind11::module_& module);
void register_point_search(pybind11::module_& module);

}  // namespace tsl::bind
