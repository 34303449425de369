// SPDX-License-Identifier: MIT
#pragma once

#include "bind/tensor_view.h"

namespace tsl::bind {

/// The type that sums features of a type, and that of factors beside them.
inline DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

/// run(type tag) for float32 and float64; half types are widened in Python for these operators of
/// the CPU.
template <class Run>
void dispatch_plain(DType dtype, const char* function, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    default:
      throw TypeError(message(function, ": feats must have dtype float32 or float64, got ",
                              name_of(dtype), ". Convert it with .to()."));
  }
}

/// run(type tag) for every floating type.
template <class Run>
void dispatch_floating(DType dtype, const char* function, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Float16{});
    default:
      throw TypeError(message(function, ": feats must have a floating dtype, got ", name_of(dtype),
                              ". Convert it with .to()."));
  }
}

}  // namespace tsl::bind
