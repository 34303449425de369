// SPDX-License-Identifier: MIT
// What every processor of the architecture has: NEON on aarch64, SSE4.2 on x86-64.
#define TSL_SIMD_NAMESPACE baseline
#define TSL_SIMD_BYTES 16
#ifdef __aarch64__
#define TSL_SIMD_NAME "neon"
#define TSL_SIMD_REGISTERS 32
#else
#define TSL_SIMD_NAME "sse4.2"
#define TSL_SIMD_REGISTERS 16
#endif
#include "cpu/simd/body.h"
