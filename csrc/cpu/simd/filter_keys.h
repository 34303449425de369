// SPDX-License-Identifier: MIT
// Part of simd/body.h: hashing many keys at once, for neighbour search.
#pragma once

#include "core/hash_table.h"
#include "cpu/simd/vector.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
__m512i broadcast(uint64_t v) { return _mm512_set1_epi64(static_cast<int64_t>(v)); }

/// splitmix64() of eight keys.
__m512i splitmix64(__m512i keys) {
  const auto mixed = [](__m512i v, unsigned shift) {
    return _mm512_xor_si512(v, _mm512_srli_epi64(v, shift));
  };
  const __m512i once = _mm512_mullo_epi64(mixed(keys, 30), broadcast(kSplitmixFirst));
  return mixed(_mm512_mullo_epi64(mixed(once, 27), broadcast(kSplitmixSecond)), 31);
}
#endif

uint32_t filter_keys(const HashTableView& table, uint64_t window_key, const uint64_t* steps,
                     int count, Probes* probes) {
  uint32_t passed = 0;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const __m512i last_bit = broadcast(table.capacity * kFilterBitsPerSlot - 1);
  const __m512i last_slot = broadcast(table.capacity - 1);
  for (int i = 0; i < count; i += 8) {
    const __m512i keys = _mm512_add_epi64(broadcast(window_key), _mm512_loadu_si512(steps + i));
    const __m512i hash = splitmix64(keys);
    _mm512_storeu_si512(probes->keys + i, keys);
    _mm512_storeu_si512(probes->homes + i, _mm512_and_si512(hash, last_slot));
    const __m512i bit = _mm512_and_si512(_mm512_srli_epi64(hash, kFilterShift), last_bit);
    const __m512i word = _mm512_srli_epi64(bit, 5);
    const __m256i found = _mm512_i64gather_epi32(word, table.filter, sizeof(uint32_t));
    const __m512i here =
        _mm512_srlv_epi64(_mm512_cvtepu32_epi64(found), _mm512_and_si512(bit, broadcast(31)));
    passed |= static_cast<uint32_t>(_mm512_test_epi64_mask(here, broadcast(1))) << i;
  }
#else
  for (int i = 0; i < count; ++i) {
    const uint64_t key = window_key + steps[i];
    const uint64_t hash = splitmix64(key);
    const uint64_t bit = table.filter_bit(hash);
    probes->keys[i] = key;
    probes->homes[i] = table.home(hash);
    passed |= (table.filter[bit / 32] >> (bit % 32) & 1u) << i;
  }
#endif
  return passed & (count < kMaskBits ? (1u << count) - 1u : ~0u);
}

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
