// SPDX-License-Identifier: MIT
#define TSL_SIMD_NAMESPACE avx512_bf16
#define TSL_SIMD_NAME "avx512-bf16"
#define TSL_SIMD_BYTES 64
#define TSL_SIMD_REGISTERS 32
#include "cpu/simd/body.h"
