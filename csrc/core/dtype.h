// SPDX-License-Identifier: MIT
// The number types of features: storage types and what they are accumulated in.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/macros.h"

namespace tsl {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16, kInt32, kInt64, kUInt8, kBool };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

TSL_HOST_DEVICE float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

TSL_HOST_DEVICE uint32_t bits_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

TSL_HOST_DEVICE float to_float(BFloat16 v) { return float_from_bits(uint32_t{v.bits} << 16); }

/// Round to nearest even; NaN stays NaN.
TSL_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// IEEE binary16 to binary32, exact, subnormals included.
TSL_HOST_DEVICE float to_float(Float16 v) {
#ifdef __CUDA_ARCH__
  float value;  // one instruction in place of ten
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(v.bits));
  return value;
#else
  const uint32_t sign = uint32_t{v.bits & 0x8000u} << 16;
  const uint32_t magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return float_from_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return float_from_bits(sign | ((magnitude << 13) + 0x38000000u));
  const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
  return float_from_bits(sign | bits_from_float(subnormal));
#endif
}

/// IEEE binary32 to binary16, round to nearest even, overflow to infinity; NaN stays NaN.
TSL_HOST_DEVICE Float16 to_float16(float value) {
#ifdef __CUDA_ARCH__
  Float16 rounded;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
#else
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Float16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return Float16{static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 aligns the binary point so that the float adder rounds for us.
    const float aligned = float_from_bits(magnitude) + 0.5f;
    return Float16{static_cast<uint16_t>(sign | (bits_from_float(aligned) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return Float16{static_cast<uint16_t>(sign | (rounded >> 13))};
#endif
}

/// A list of number types.
template <class... Ts>
struct Types {};

/// All that features can have: as a list, and as make(S) for each, to instantiate templates.
using Floating = Types<float, double, BFloat16, Float16>;
#define TSL_FOR_FLOATING(make) make(float) make(double) make(BFloat16) make(Float16)

/// The type that sums numbers stored as S.
template <class S>
using SumType = std::conditional_t<std::is_same_v<S, double>, double, float>;

/// A stored number in the type that computes with it.
template <class A, class S>
TSL_HOST_DEVICE A widened(S value) {
  if constexpr (std::is_arithmetic_v<S>) {
    return static_cast<A>(value);
  } else {
    return static_cast<A>(to_float(value));
  }
}

/// The number as it is stored, rounded once.
template <class S, class A>
TSL_HOST_DEVICE S narrowed(A value) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    return to_bfloat16(value);
  } else if constexpr (std::is_same_v<S, Float16>) {
    return to_float16(value);
  } else {
    return value;
  }
}

/// Ten bits behind the point, as tensor cores read float32: to nearest, ties away from zero; NaN
/// stays NaN.
TSL_HOST_DEVICE float rounded_to_tf32(float value) {
  const uint32_t bits = bits_from_float(value);
  // A NaN may be told from an infinity by the bits that are dropped alone.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return float_from_bits(bits | 0x400000u);
  return float_from_bits((bits + 0x1000u) & ~0x1fffu);
}

}  // namespace tsl
