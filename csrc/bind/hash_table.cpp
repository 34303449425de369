// SPDX-License-Identifier: MIT
#include "bind/hash_table.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bind/coords.h"
#include "bind/device.h"
#include "bind/module.h"
#include "cpu/parallel.h"
#include "cuda/hash_table.h"
#include "kernels/hash_insert.h"
#include "kernels/hash_lookup.h"

namespace tsl::bind {

HashTableView table_of(const TableTensors& tensors, const char* function,
                       dlpack::DeviceType device) {
  const auto& [keys, rows, filter] = tensors;
  keys.expect(message(function, ": keys").c_str(), DType::kInt64, {-1}, device);
  const int64_t slots = keys.shape[0];
  const int64_t capacity = slots - 1;
  TSL_CHECK(capacity >= 32 / kFilterBitsPerSlot && (capacity & (capacity - 1)) == 0, ValueError,
            function, ": keys must have 2^n + 1 slots, got ", slots,
            ". Build the table with hash_build.");
  rows.expect(message(function, ": rows").c_str(), DType::kInt32, {slots}, device);
  filter.expect(message(function, ": filter").c_str(), DType::kInt32,
                {capacity * kFilterBitsPerSlot / 32}, device);
  return HashTableView{keys.as<uint64_t>(), rows.as<int32_t>(), filter.as<uint32_t>(),
                       static_cast<uint64_t>(capacity)};
}

namespace {

void hash_build(const TensorView& coords, const TableTensors& tensors, int threads) {
  const dlpack::DeviceType device = device_of(coords, "hash_build: coords");
  const int64_t count = coords.shape[0];
  const Coord* const sites = coords.coords("hash_build: coords", device);
  const HashTableView table = table_of(tensors, "hash_build", device);
  TSL_CHECK(table.capacity >= hash_capacity(static_cast<uint64_t>(count)), ValueError,
            "hash_build: keys must have room for twice the coordinates, got ", table.capacity,
            " slots for ", count, ". Allocate hash_capacity(n) + 1.");
  const HashInsert insert{sites, table};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      void* const stream = current_stream(coords);
      const py::gil_scoped_release release;
      cuda::hash_build(insert, count, coords.device.id, stream);
      return;
    }
  }
  check_range(coords, "hash_build", threads);
  const py::gil_scoped_release release;
  std::fill(table.keys, table.keys + table.capacity + 1, kEmptyKey);
  std::fill(table.rows, table.rows + table.capacity + 1, kNoRow);
  std::fill(table.filter, table.filter + table.filter_words(), 0u);
  cpu::for_each(count, threads, insert);
}

void hash_lookup(const TableTensors& tensors, const TensorView& coords, const TensorView& found,
                 int threads) {
  const dlpack::DeviceType device = device_of(coords, "hash_lookup: coords");
  const int64_t count = coords.shape[0];
  const Coord* const sites = coords.coords("hash_lookup: coords", device);
  found.expect("hash_lookup: found", DType::kInt64, {count}, device);
  const HashTableView table = table_of(tensors, "hash_lookup", device);
  const HashLookup lookup{sites, table, found.as<int64_t>()};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      void* const stream = current_stream(coords);
      const py::gil_scoped_release release;
      cuda::hash_lookup(lookup, count, coords.device.id, stream);
      return;
    }
  }
  const py::gil_scoped_release release;
  cpu::for_each(count, threads, lookup);
}

}  // namespace

void register_hash_table(py::module_& module) {
  module.def("hash_capacity", &hash_capacity, py::arg("count"));
  module.def("hash_build", &hash_build, py::arg("coords"), py::arg("table"), py::arg("threads"));
  module.def("hash_lookup", &hash_lookup, py::arg("table"), py::arg("coords"), py::arg("found"),
             py::arg("threads"));
}

}  // namespace tsl::bind
