// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "bind/tensor_view.h"

namespace tsl::bind {

/// The type that sums features of a type, and that of factors beside them.
inline DType sum_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

/// Those of operators of the CPU for which Python widens half types.
using Plain = Types<float, double>;

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kFloat16;
};

/// "float32, float64 or bfloat16".
template <class... Ts>
std::string names_of(Types<Ts...>) {
  std::string text;
  size_t left = sizeof...(Ts);
  const auto add = [&](DType dtype) {
    text += name_of(dtype);
    --left;
    if (left > 0) text += left > 1 ? ", " : " or ";
  };
  (add(DTypeOf<Ts>::value), ...);
  return text;
}

template <class Run, class... Ts>
bool run_with(Types<Ts...>, DType dtype, const Run& run) {
  return ((dtype == DTypeOf<Ts>::value && (run(Ts{}), true)) || ...);
}

/// run(type tag) for the dtype, which is one of the list; `argument` is "<function>: <name>".
template <class List, class Run>
void dispatch(DType dtype, std::string_view argument, const Run& run) {
  if (run_with(List{}, dtype, run)) return;
  throw TypeError(message(argument, " must have dtype ", names_of(List{}), ", got ", name_of(dtype),
                          ". Convert it with .to()."));
}

}  // namespace tsl::bind
