// SPDX-License-Identifier: MIT
// How results of unknown size reach Python: the caller passes a function that, given the size,
// returns the tensors to fill. Python allocates, C++ computes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

#include "bind/tensor_view.h"

namespace tsl::bind {

/// allocate(size) -> tuple of kCount tensors.
template <size_t kCount>
std::array<TensorView, kCount> allocate(const py::function& allocator, int64_t size) {
  const py::tuple tensors = allocator(size);
  std::array<TensorView, kCount> views;
  for (size_t i = 0; i < kCount; ++i) views[i] = view_of(tensors[i]);
  return views;
}

}  // namespace tsl::bind
