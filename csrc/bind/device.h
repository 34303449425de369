// SPDX-License-Identifier: MIT
// On which device an operator runs: that of its tensors. On a GPU it runs on torch's current
// stream, and temporary memory is torch's, asked for through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <optional>

#include "bind/tensor_view.h"
#include "cuda/call.h"

namespace tsl::bind {

#ifdef TSL_WITH_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

/// Refuses CUDA where this build has no CUDA part; `argument` is "<function>: <name>".
inline dlpack::DeviceType device_of(const TensorView& view, const char* argument) {
  if (view.device.type != dlpack::kCuda) return dlpack::kCpu;
  TSL_CHECK(kHasCuda, MachineError, argument, " must be on the CPU, got CUDA. ",
            "This build has no CUDA part: install nvcc and reinstall with TSL_CUDA=ON.");
  return dlpack::kCuda;
}

/// What a result whose size the data decide gets instead of being counted, see kernels/passes.h.
struct Capacity {
  int64_t rows = -1;
  int32_t* overflow = nullptr;
};

/// The two last arguments of such an operator. They go together, and with a GPU; rows are numbered
/// in int32.
inline Capacity capacity_of(int64_t capacity, const std::optional<TensorView>& overflow,
                            const char* function, dlpack::DeviceType device) {
  TSL_CHECK(device == dlpack::kCuda || !overflow, ValueError, function,
            ": overflow must be None on the CPU, got a tensor. ",
            "Leave it out: calls on the CPU give results of the exact size.");
  TSL_CHECK(device == dlpack::kCuda || capacity == -1, ValueError, function,
            ": capacity must be -1 on the CPU, got ", capacity,
            ". Leave it out: calls on the CPU give results of the exact size.");
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1;
  TSL_CHECK(capacity >= -1 && capacity <= kMost, ValueError, function,
            ": capacity must be -1 (none) or a number of rows up to ", kMost, ", got ", capacity,
            ". Split the cloud.");
  TSL_CHECK((capacity >= 0) == overflow.has_value(), ValueError, function,
            ": overflow must be given where capacity is, got ", overflow ? "a tensor" : "None",
            " with ", capacity, ". Give both or neither.");
  if (!overflow) return {};
  overflow->expect(message(function, ": overflow").c_str(), DType::kInt32, {1}, device);
  return {capacity, overflow->as<int32_t>()};
}

/// A call on the GPU. While it lives it keeps its temporary memory: uint8 tensors that
/// scratch(bytes), a function of Python, returns. What was allocated on a stream may be freed
/// before the stream is done with it: torch hands it to later work of that stream only.
class CudaCall {
 public:
  CudaCall(const TensorView& view, const py::function& scratch, const Capacity& capacity = {})
      : scratch_(scratch),
        call_{view.device.id, current_stream(view), [this](int64_t bytes) { return take(bytes); },
              capacity.rows, capacity.overflow} {}
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;

  /// run(call) without the lock of Python.
  template <class Run>
  auto operator()(const Run& run) const {
    const py::gil_scoped_release release;
    return run(call_);
  }

 private:
  void* take(int64_t bytes) {
    const py::gil_scoped_acquire acquire;
    const py::object tensor = scratch_(bytes);
    memory_.append(tensor);
    return view_of(tensor).expect("scratch: memory", DType::kUInt8, {bytes}, dlpack::kCuda).data;
  }

  py::function scratch_;
  py::list memory_;
  cuda::Call call_;
};

}  // namespace tsl::bind
