// SPDX-License-Identifier: MIT
// Counting and finding bits, for host and device.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace tsl {

TSL_HOST_DEVICE int count_bits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

/// `bits` must not be 0.
TSL_HOST_DEVICE int lowest_bit(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

}  // namespace tsl
