// SPDX-License-Identifier: MIT
// Where a call runs, and where its temporary memory comes from.
#pragma once

#include <cstdint>
#include <functional>

namespace tsl::cuda {

struct Call {
  int device;
  void* stream;                                // a cudaStream_t
  std::function<void*(int64_t bytes)> memory;  // alive until the call is over
  int64_t capacity = -1;        // of results whose size the data decide, see kernels/passes.h
  int32_t* overflow = nullptr;  // on the device; goes with a capacity
};

}  // namespace tsl::cuda
