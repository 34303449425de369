// SPDX-License-Identifier: MIT
// functor(i) for every i in [0, count) on a stream: the launch of the shared kernels. Every launch
// and every call of the runtime is checked.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/check.h"

namespace tsl::cuda {

inline void check(cudaError_t status, const char* file, int line) {
  TSL_CHECK(status == cudaSuccess, MachineError, "torchsparse_lite: CUDA call must succeed, got ",
            cudaGetErrorName(status), " (", cudaGetErrorString(status), ") at ", file, ":", line,
            ". Run again with CUDA_LAUNCH_BLOCKING=1 to find the call.");
}

#define TSL_CUDA_CHECK(call) ::tsl::cuda::check((call), __FILE__, __LINE__)

/// Makes `device` current for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    TSL_CUDA_CHECK(cudaGetDevice(&previous_));
    if (device != previous_) TSL_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceGuard() {
    if (device_ != previous_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int previous_ = 0;
};

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

template <class Functor>
__global__ void for_each_kernel(int64_t count, Functor functor) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    functor(i);
  }
}

template <class Functor>
void for_each(int64_t count, cudaStream_t stream, const Functor& functor) {
  if (count == 0) return;
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMaxBlocks);
  for_each_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(count, functor);
  TSL_CUDA_CHECK(cudaGetLastError());
}

}  // namespace tsl::cuda
