// SPDX-License-Identifier: MIT
// Compiled without fused multiply-add, so that the weights are those of the CPU to the last bit.
#include "cuda/corners.h"

#include "cuda/for_each.cuh"

namespace tsl::cuda {

template <class T>
void corners(const Corners<T>& corners, int64_t count, int device, void* stream) {
  const DeviceGuard guard(device);
  for_each(count, static_cast<cudaStream_t>(stream), corners);
}

template void corners<float>(const Corners<float>&, int64_t, int, void*);
template void corners<double>(const Corners<double>&, int64_t, int, void*);

}  // namespace tsl::cuda
