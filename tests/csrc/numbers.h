// SPDX-License-Identifier: MIT
// Feature values of every type, and sums of them in double with the error that a sum may have.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "core/dtype.h"

namespace tsl::test {

inline float stored(double value, float) { return static_cast<float>(value); }
inline double stored(double value, double) { return value; }
inline BFloat16 stored(double value, BFloat16) { return to_bfloat16(static_cast<float>(value)); }
inline Float16 stored(double value, Float16) { return to_float16(static_cast<float>(value)); }

inline double exact(float value) { return static_cast<double>(value); }
inline double exact(double value) { return value; }
inline double exact(BFloat16 value) { return static_cast<double>(to_float(value)); }
inline double exact(Float16 value) { return static_cast<double>(to_float(value)); }

/// run(type tag)
template <class Run>
void for_float_and_double(const Run& run) {
  {
    const check::Note note("float32");
    run(float{});
  }
  const check::Note note("float64");
  run(double{});
}

template <class Run>
void for_each_type(const Run& run) {
  for_float_and_double(run);
  {
    const check::Note note("bfloat16");
    run(BFloat16{});
  }
  const check::Note note("float16");
  run(Float16{});
}

/// Uniform in [-1, 1).
template <class S>
std::vector<S> random_values(Random& random, int64_t count) {
  std::vector<S> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(stored(random.real(-1.0, 1.0), S{}));
  return values;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Sums of products in double, with the number and the magnitude of their terms.
struct Sums {
  std::vector<double> sum, magnitude;
  std::vector<int64_t> terms;

  explicit Sums(int64_t size)
      : sum(static_cast<size_t>(size), 0.0), magnitude(sum), terms(static_cast<size_t>(size), 0) {}

  void add(int64_t i, double a, double b = 1.0) {
    at(sum, i) += a * b;
    at(magnitude, i) += std::fabs(a * b);
    ++at(terms, i);
  }

  /// Values that were summed in A, in any order, and stored in S.
  template <class A, class S>
  void expect(const std::vector<S>& values) const {
    CHECK_EQ(values.size(), sum.size());
    // A step of a sum may round twice, and 16-bit products may flush what is subnormal.
    const double step = std::is_same_v<A, double> ? 0x1p-52 : 0x1p-23;
    double last = std::is_same_v<S, float> ? 0x1p-24 : 0.0;
    double smallest = 0x1p-120;
    if (std::is_same_v<S, BFloat16>) last = 0x1p-8;
    if (std::is_same_v<S, Float16>) {
      last = 0x1p-11;
      smallest = 0x1p-25;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const double steps = step * static_cast<double>(terms[i] + 3);
      const double bound = steps * magnitude[i] + last * std::fabs(sum[i]) + smallest;
      if (std::fabs(exact(values[i]) - sum[i]) <= bound) continue;
      const check::Note note("element ", i, ", bound ", bound);
      CHECK_EQ(exact(values[i]), sum[i]);
      return;
    }
  }
};

}  // namespace tsl::test
