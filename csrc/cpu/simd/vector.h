// SPDX-License-Identifier: MIT
// Part of simd/body.h: vectors, register tiles, conversion of half types.
#pragma once

#include "core/dtype.h"
#include "cpu/simd/kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(TSL_SIMD_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = TSL_SIMD_BYTES / static_cast<int>(sizeof(T));

template <class T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T>
void store(T* to, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

// Register tiles. sums + one row of weights + one broadcast must fit into the register file.
constexpr int kMaxVectors = TSL_SIMD_REGISTERS >= 32 ? 4 : 3;
constexpr int kMaxRows = 12;
constexpr int tile_rows_for(int vectors) {
  const int sums = TSL_SIMD_REGISTERS >= 32 ? 24 : 12;
  return sums / vectors < kMaxRows ? sums / vectors : kMaxRows;
}

constexpr int kCacheLine = 64;

void prefetch_row(const void* row, int64_t bytes) {
  const char* const line = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i);
}

void widen(const float* from, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
}
void widen(const double* from, double* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
}
void widen(const BFloat16* from, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
void widen(const Float16* from, float* to, int count) {
  int i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
#elif defined(__aarch64__)
  typedef __fp16 Half4 __attribute__((vector_size(8), aligned(2), may_alias));
  typedef float Float4 __attribute__((vector_size(16), aligned(4), may_alias));
  for (; i + 4 <= count; i += 4) {
    *reinterpret_cast<Float4*>(to + i) =
        __builtin_convertvector(*reinterpret_cast<const Half4*>(from + i), Float4);
  }
#endif
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

void narrow(float from, float* to) { *to = from; }
void narrow(double from, double* to) { *to = from; }
void narrow(float from, BFloat16* to) { *to = to_bfloat16(from); }
void narrow(float from, Float16* to) { *to = to_float16(from); }

float as_sum(float v) { return v; }
double as_sum(double v) { return v; }
float as_sum(BFloat16 v) { return to_float(v); }
float as_sum(Float16 v) { return to_float(v); }

/// Even cut of `count` items into groups of at most `limit`: sizes differ by at most one.
struct EvenGroups {
  int64_t count;
  int64_t groups;
  EvenGroups(int64_t count, int64_t limit) : count(count), groups((count + limit - 1) / limit) {}
  int64_t begin(int64_t group) const { return count * group / groups; }
};

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
