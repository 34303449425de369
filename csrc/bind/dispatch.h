// SPDX-License-Identifier: MIT
#pragma once

#include "bind/tensor_view.h"

namespace tsl::bind {

/// The type that sums features of a type, and that of factors beside them.
inline DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

/// `argument` is "<function>: <name>", `wanted` the dtypes that it may have.
[[noreturn]] inline void refuse_dtype(const char* argument, const char* wanted, DType dtype) {
  throw TypeError(message(argument, " must have ", wanted, ", got ", name_of(dtype),
                          ". Convert it with .to()."));
}

/// run(type tag) for float32 and float64; half types are widened in Python for these operators of
/// the CPU.
template <class Run>
void dispatch_plain(DType dtype, const char* argument, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    default:
      refuse_dtype(argument, "dtype float32 or float64", dtype);
  }
}

/// run(type tag) for every floating type.
template <class Run>
void dispatch_floating(DType dtype, const char* argument, const Run& run) {
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
      refuse_dtype(argument, "a floating dtype", dtype);
  }
}

}  // namespace tsl::bind
