// SPDX-License-Identifier: MIT
// A block of threads on the GPU (kernels/warp_block.h): the instructions behind the words. All of
// them are there from sm_80 on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "kernels/fragments.h"

namespace tsl::cuda {

/// Threads of a multiprocessor that kernels of such blocks are compiled for: 168 registers each.
/// Left alone, the compiler spills some to make room for more threads.
constexpr int kResidentThreads = 384;

extern __shared__ __align__(128) unsigned char shared_memory[];

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

struct Lane {
  int index;
  int thread;

  template <class T>
  __device__ __forceinline__ T& operator()(T& registers) const {
    return registers;
  }

  __device__ __forceinline__ void copy(void* to, const void* from, bool is_there) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
  }
};

struct Warp {
  int index;
  Lane lane;

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
    run(lane);
  }

  __device__ __forceinline__ void sync() const { __syncwarp(); }

  template <class Is>
  __device__ __forceinline__ uint32_t ballot(const Is& is) const {
    return __ballot_sync(kAllLanes, is(lane));
  }

  template <class To, class From>
  __device__ __forceinline__ void load_matrices(const To& to, const From& from) const {
    uint32_t* const w = to(lane);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(shared_address(from(lane)))
                 : "memory");
  }

  template <class To, class From>
  __device__ __forceinline__ void load_transposed(const To& to, const From& from) const {
    uint32_t* const w = to(lane);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(shared_address(from(lane)))
                 : "memory");
  }

  template <class S, class D, class A, class B>
  __device__ __forceinline__ void multiply(const D& sums, const A& left, const B& right) const {
    float* const d = sums(lane);
    const uint32_t* const a = left(lane);
    const uint32_t* const b = right(lane);
    if constexpr (std::is_same_v<S, BFloat16>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else if constexpr (std::is_same_v<S, float>) {
      asm("{.reg .b32 b<2>; "
          "cvt.rna.tf32.f32 b0, %8; cvt.rna.tf32.f32 b1, %9; "
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {b0, b1}, {%0, %1, %2, %3};}"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "f"(__uint_as_float(b[0])),
            "f"(__uint_as_float(b[1])));
    } else {
      static_assert(std::is_same_v<S, Float16>);
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
};

struct WarpBlock {
  template <class T>
  using Registers = T;

  template <class T>
  __device__ __forceinline__ T& shared() const {
    return *reinterpret_cast<T*>(shared_memory);
  }

  template <class Run>
  __device__ __forceinline__ void warps(const Run& run) const {
    const int thread = static_cast<int>(threadIdx.x);
    run(Warp{thread / kWarpLanes, {thread % kWarpLanes, thread}});
  }

  __device__ __forceinline__ void sync() const { __syncthreads(); }

  __device__ __forceinline__ void commit() const {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  template <int pending>
  __device__ __forceinline__ void wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
  }
};

}  // namespace tsl::cuda
