// SPDX-License-Identifier: MIT
// On which device an operator runs: that of its tensors. On a GPU it runs on torch's current
// stream, and temporary memory is torch's, asked for through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

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

/// A call on the GPU. While it lives it keeps its temporary memory: uint8 tensors that
/// scratch(bytes), a function of Python, returns. What was allocated on a stream may be freed
/// before the stream is done with it: torch hands it to later work of that stream only.
class CudaCall {
 public:
  CudaCall(const TensorView& view, const py::function& scratch)
      : scratch_(scratch),
        call_{view.device.id, current_stream(view), [this](int64_t bytes) { return take(bytes); }} {
  }
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
