// SPDX-License-Identifier: MIT
#define TSL_SIMD_NAMESPACE avx2
#define TSL_SIMD_NAME "avx2"
#define TSL_SIMD_BYTES 32
#define TSL_SIMD_REGISTERS 16
#include "cpu/simd/body.h"
