// SPDX-License-Identifier: MIT
// Runs the passes of kernels/passes.h on a stream; sorting and summing are CUB's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <limits>

#include "cuda/block.cuh"
#include "cuda/call.h"
#include "cuda/for_each.cuh"
#include "kernels/passes.h"

namespace tsl::cuda {

class Executor {
 public:
  explicit Executor(const Call& call)
      : guard_(call.device), call_(call), stream_(static_cast<cudaStream_t>(call.stream)) {}

  void* take(int64_t bytes) { return call_.memory(std::max<int64_t>(bytes, 1)); }

  template <class Functor>
  void for_each(int64_t count, const Functor& functor) {
    cuda::for_each(count, stream_, functor);
  }

  template <class Functor>
  void for_each_block(int64_t count, const Functor& functor) {
    cuda::for_each_block(count, stream_, functor);
  }

  template <class T>
  void exclusive_sum(T* values, int64_t count) {
    with_memory([&](void* memory, size_t& bytes) {
      return cub::DeviceScan::ExclusiveSum(memory, bytes, values, values, items(count), stream_);
    });
  }

  template <class Key>
  const Key* sort(Key* keys, Key* spare, int64_t count) {
    cub::DoubleBuffer<Key> buffer(keys, spare);
    with_memory([&](void* memory, size_t& bytes) {
      return cub::DeviceRadixSort::SortKeys(memory, bytes, buffer, items(count), 0,
                                            static_cast<int>(8 * sizeof(Key)), stream_);
    });
    return buffer.Current();
  }

  template <class Key, class Value>
  SortedPairs<Key, Value> sort_pairs(Key* keys, Key* spare_keys, Value* values, Value* spare_values,
                                     int64_t count, int bits) {
    cub::DoubleBuffer<Key> key_buffer(keys, spare_keys);
    cub::DoubleBuffer<Value> value_buffer(values, spare_values);
    with_memory([&](void* memory, size_t& bytes) {
      return cub::DeviceRadixSort::SortPairs(memory, bytes, key_buffer, value_buffer, items(count),
                                             0, bits, stream_);
    });
    return {key_buffer.Current(), value_buffer.Current()};
  }

  template <size_t n, class T>
  std::array<T, n> read(const T* values) {
    std::array<T, n> result;
    TSL_CUDA_CHECK(
        cudaMemcpyAsync(result.data(), values, n * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    TSL_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return result;
  }

  bool has_capacity() const { return call_.capacity >= 0; }
  int64_t capacity() const { return call_.capacity; }
  int32_t* overflow() const { return call_.overflow; }

 private:
  /// CUB's convention: run(null, bytes) asks how much memory, run(memory, bytes) does the work.
  template <class Run>
  void with_memory(const Run& run) {
    size_t bytes = 0;
    TSL_CUDA_CHECK(run(nullptr, bytes));
    void* const memory = take(static_cast<int64_t>(bytes));
    TSL_CUDA_CHECK(run(memory, bytes));
  }

  static int items(int64_t count) {
    TSL_CHECK(count <= std::numeric_limits<int>::max(), ValueError,
              "torchsparse_lite: coords must have fewer than 2^31 rows and sites, got ", count,
              ". Split the cloud.");
    return static_cast<int>(count);
  }

  DeviceGuard guard_;
  const Call& call_;
  cudaStream_t stream_;
};

}  // namespace tsl::cuda
