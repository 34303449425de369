// SPDX-License-Identifier: MIT
#pragma once

#include "bind/tensor_view.h"

namespace tsl::bind {

/// run(type tag) for float32 and float64; half types are widened in Python for these operators.
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

}  // namespace tsl::bind
