// SPDX-License-Identifier: MIT
#define TSL_SIMD_NAMESPACE amx
#define TSL_SIMD_NAME "amx"
#define TSL_SIMD_BYTES 64
#define TSL_SIMD_REGISTERS 32
#include "cpu/simd/body.h"
