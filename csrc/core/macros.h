// SPDX-License-Identifier: MIT
// One text for host and device: the only place that asks which compiler is reading it.
#pragma once

#ifdef __CUDACC__
#define TSL_HOST_DEVICE __host__ __device__ __forceinline__
// Before a loop over registers: an array stays in registers only where every index is a constant.
#define TSL_UNROLL _Pragma("unroll")
// Before a loop that turns once or twice: left alone, the compiler writes it out several times.
#define TSL_ROLLED _Pragma("unroll 1")
#else
#define TSL_UNROLL
#define TSL_ROLLED
// Always inlined, so that no copy compiled for one instruction set can be linked into code for
// another.
#define TSL_HOST_DEVICE inline __attribute__((always_inline))
#endif
