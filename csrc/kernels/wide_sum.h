// SPDX-License-Identifier: MIT
// Sums of many terms that lose no digits: where the CPU sums floats in double.
//
// float and the 16-bit types are summed in a pair of floats: the sum as float arithmetic has it,
// and what it has rounded away (Knuth's two-sum; the rest of a product by a fused multiply-add).
// That is 48 bits against double's 53, in the range of float, of which sums of millions of terms
// keep 42 or more; rounded to float it is the same number, or its neighbour. Terms of double are
// summed in double.
//
// Why not double: an Orin adds 42e9 doubles a second, conversions counted like additions, but reads
// 51e9 floats or 102e9 halves. One sum in double would take 2.5 to 5 times the time of the memory,
// mean and variance 5 to 10 times. In pairs a term costs 7 to 26 float operations of 2650e9 a
// second: no more than the memory.
//
// Source: Dekker, "A floating-point technique for extending the available precision", 1971; Knuth,
// "The Art of Computer Programming", volume 2, section 4.2.2.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/macros.h"

namespace tsl {

/// A number, and what rounding has taken from it.
struct Rounded {
  float value;
  float lost;
};

/// a + b
TSL_HOST_DEVICE Rounded two_sum(float a, float b) {
  const float sum = a + b;
  const float arrived = sum - a;  // of b
  return {sum, (a - (sum - arrived)) + (b - arrived)};
}

/// a * b. The zero keeps compilers from fusing the product into a sum, whose rest it then were not.
TSL_HOST_DEVICE Rounded two_product(float a, float b) {
  const float product = fmaf(a, b, 0.0f);
  return {product, fmaf(a, b, -product)};
}

class alignas(2 * sizeof(float)) PairSum {
 public:
  TSL_HOST_DEVICE void add(float value, float lost = 0.0f) {
    const Rounded sum = two_sum(high_, value);
    high_ = sum.value;
    low_ += sum.lost + lost;
  }
  TSL_HOST_DEVICE void add_product(float a, float b) {
    const Rounded product = two_product(a, b);
    add(product.value, product.lost);
  }
  /// Adds x - origin to this and its square to `squares`.
  TSL_HOST_DEVICE void add_distance(float x, float origin, PairSum* squares) {
    const Rounded distance = two_sum(x, -origin);
    const Rounded square = two_product(distance.value, distance.value);
    add(distance.value, distance.lost);
    squares->add(square.value, fmaf(2 * distance.value, distance.lost, square.lost));
  }
  TSL_HOST_DEVICE void merge(const PairSum& later) {
    add(later.high_, later.low_);
    if (!is_finite()) return;
    const Rounded sum = two_sum(high_, low_);  // what is lost stays small
    high_ = sum.value;
    low_ = sum.lost;
  }

  TSL_HOST_DEVICE float total() const { return is_finite() ? high_ + low_ : high_; }
  TSL_HOST_DEVICE float mean(int64_t terms) const {
    const float count = static_cast<float>(terms);
    const float quotient = high_ / count;
    return is_finite() ? quotient + (fmaf(-quotient, count, high_) + low_) / count : quotient;
  }
  TSL_HOST_DEVICE double in_double() const {
    return is_finite() ? static_cast<double>(high_) + static_cast<double>(low_)
                       : static_cast<double>(high_);
  }

 private:
  /// What is lost of an infinite sum is no number.
  TSL_HOST_DEVICE bool is_finite() const { return high_ - high_ == 0.0f; }

  float high_ = 0;
  float low_ = 0;
};

class DoubleSum {
 public:
  TSL_HOST_DEVICE void add(double value) { sum_ += value; }
  TSL_HOST_DEVICE void add_product(double a, double b) { sum_ += a * b; }
  TSL_HOST_DEVICE void add_distance(double x, double origin, DoubleSum* squares) {
    add(x - origin);
    squares->add((x - origin) * (x - origin));
  }
  TSL_HOST_DEVICE void merge(const DoubleSum& later) { sum_ += later.sum_; }

  TSL_HOST_DEVICE double total() const { return sum_; }
  TSL_HOST_DEVICE double mean(int64_t terms) const { return sum_ / static_cast<double>(terms); }
  TSL_HOST_DEVICE double in_double() const { return sum_; }

 private:
  double sum_ = 0;
};

/// Sums of numbers stored as S.
template <class S>
using WideSum = std::conditional_t<std::is_same_v<S, double>, DoubleSum, PairSum>;

}  // namespace tsl
