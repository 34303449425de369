// SPDX-License-Identifier: MIT
// functor(block, i) for every i in [0, count): a block of threads works on one item. What it is
// written against is in kernels/passes.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cub/block/block_reduce.cuh>

#include "cuda/for_each.cuh"

namespace tsl::cuda {

constexpr int kBlockThreads = 1024;

/// The block that the calling thread is in. All of its threads make the same calls.
class Block {
 public:
  __device__ static int threads() { return kBlockThreads; }

  template <class Run>
  __device__ void once(const Run& run) const {
    if (threadIdx.x == 0) run();
  }

  template <class Visit, class Combine>
  __device__ auto reduce(const Visit& visit, const Combine& combine) const {
    using Value = decltype(visit(0));
    using Reduce = cub::BlockReduce<Value, kBlockThreads>;
    __shared__ typename Reduce::TempStorage memory;
    __shared__ Value result;
    const Value mine = visit(static_cast<int>(threadIdx.x));
    const Value combined = Reduce(memory).Reduce(mine, combine);
    if (threadIdx.x == 0) result = combined;
    __syncthreads();
    const Value all = result;
    __syncthreads();  // the next call writes it again
    return all;
  }
};

template <class Functor>
__global__ void __launch_bounds__(kBlockThreads)
    for_each_block_kernel(int64_t count, Functor functor) {
  const Block block;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) functor(block, i);
}

template <class Functor>
void for_each_block(int64_t count, cudaStream_t stream, const Functor& functor) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min(count, kMaxBlocks));
  for_each_block_kernel<<<blocks, kBlockThreads, 0, stream>>>(count, functor);
  TSL_CUDA_CHECK(cudaGetLastError());
}

}  // namespace tsl::cuda
