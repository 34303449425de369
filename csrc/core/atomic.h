// SPDX-License-Identifier: MIT
// The integer atomics that kernels share between host and device. There are no float atomics: their
// result would depend on the order of arrival.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace tsl {

/// If *word is `expected`, make it `desired`; returns what was there.
TSL_HOST_DEVICE uint64_t atomic_claim(uint64_t* word, uint64_t expected, uint64_t desired) {
#ifdef __CUDA_ARCH__
  return atomicCAS(reinterpret_cast<unsigned long long*>(word), expected, desired);
#else
  const uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  if (seen != expected) return seen;
  __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
#endif
}

/// *word = min(*word, row) over non-negative rows; -1 counts as "none yet".
TSL_HOST_DEVICE void atomic_min_row(int32_t* word, int32_t row) {
#ifdef __CUDA_ARCH__
  atomicMin(reinterpret_cast<unsigned int*>(word), static_cast<unsigned int>(row));
#else
  uint32_t* const unsigned_word = reinterpret_cast<uint32_t*>(word);
  uint32_t seen = __atomic_load_n(unsigned_word, __ATOMIC_RELAXED);
  while (static_cast<uint32_t>(row) < seen &&
         !__atomic_compare_exchange_n(unsigned_word, &seen, static_cast<uint32_t>(row), true,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
#endif
}

/// *word |= bits.
TSL_HOST_DEVICE void atomic_or(uint32_t* word, uint32_t bits) {
#ifdef __CUDA_ARCH__
  atomicOr(word, bits);
#else
  __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
#endif
}

}  // namespace tsl
