// SPDX-License-Identifier: MIT
// A torch tensor as the core sees it: pointer, type, shape, device. Nothing of torch is linked; the
// description comes through DLPack and is borrowed for the length of one call.
//
// Only row-major tensors pass. A strided one is refused, never copied behind the caller's back.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>

#include "bind/dlpack_abi.h"
#include "core/check.h"
#include "core/coord.h"
#include "core/dtype.h"

namespace tsl::bind {

namespace py = pybind11;

constexpr int kMaxDims = 8;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  dlpack::Device device{dlpack::kCpu, 0};
  int ndim = 0;
  std::array<int64_t, kMaxDims> shape{};

  int64_t size() const {
    int64_t count = 1;
    for (int i = 0; i < ndim; ++i) count *= shape[static_cast<size_t>(i)];
    return count;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }

  /// Refuses another type, shape (-1: any extent) or device; `argument` is "<function>: <name>".
  const TensorView& expect(const char* argument, DType wanted,
                           std::initializer_list<int64_t> extents,
                           dlpack::DeviceType wanted_device = dlpack::kCpu) const;

  /// The first rows alone.
  TensorView head(int64_t rows) const {
    TensorView view = *this;
    view.shape[0] = rows;
    return view;
  }

  /// (N, 4) int32; rows are numbered in int32, so there are fewer than 2^31.
  const Coord* coords(const char* argument, dlpack::DeviceType wanted_device = dlpack::kCpu) const;
};

const char* name_of(DType dtype);

/// Fills the view from a torch tensor (or None, for std::optional arguments handled by pybind11).
TensorView view_of(py::handle tensor);

/// torch's current stream on the device.
void* current_stream(const TensorView& view);

}  // namespace tsl::bind

namespace pybind11::detail {

template <>
struct type_caster<tsl::bind::TensorView> {
  PYBIND11_TYPE_CASTER(tsl::bind::TensorView, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    if (!source || source.is_none()) return false;
    value = tsl::bind::view_of(source);
    return true;
  }
};

}  // namespace pybind11::detail
