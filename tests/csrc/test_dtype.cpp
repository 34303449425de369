// SPDX-License-Identifier: MIT
// Conversions of the 16-bit types: every value of them, and floats at and around every rounding
// border, against a search in the sorted list of all representable values.
#include "core/dtype.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "clouds.h"

namespace tsl::test {
namespace {

constexpr uint32_t kSign = 0x8000u;

/// Sign, exponent and mantissa of a 16-bit format, decoded in double.
struct Format {
  int mantissa_bits;
  int bias;

  uint32_t infinity() const { return 0x7fffu >> mantissa_bits << mantissa_bits; }

  /// Of finite non-negative bits, and of infinity() what the next value would be.
  double magnitude(uint32_t bits) const {
    const int exponent = static_cast<int>(bits >> mantissa_bits);
    const double fraction = static_cast<double>(bits & ((1u << mantissa_bits) - 1u));
    const double unit = std::ldexp(1.0, -mantissa_bits);
    if (exponent == 0) return std::ldexp(fraction * unit, 1 - bias);
    return std::ldexp(1.0 + fraction * unit, exponent - bias);
  }

  double decode(uint32_t bits) const {
    const uint32_t magnitude_bits = bits & ~kSign;
    double value = magnitude(magnitude_bits);
    if (magnitude_bits == infinity()) value = std::numeric_limits<double>::infinity();
    if (magnitude_bits > infinity()) value = std::numeric_limits<double>::quiet_NaN();
    return bits & kSign ? -value : value;
  }
};

/// Nearest representable value by binary search; ties go to the even bits.
class SlowRounding {
 public:
  explicit SlowRounding(const Format& format) : format_(format) {
    for (uint32_t bits = 0; bits <= format.infinity(); ++bits)
      values_.push_back(format.magnitude(bits));
  }

  /// `value` must not be NaN.
  uint16_t encode(float value) const {
    const double wanted = std::fabs(static_cast<double>(value));
    const auto above = std::lower_bound(values_.begin(), values_.end(), wanted);
    uint32_t bits = static_cast<uint32_t>(above - values_.begin());
    if (above == values_.end()) {
      bits = format_.infinity();
    } else if (bits > 0) {
      const double up = *above - wanted;
      const double down = wanted - *(above - 1);
      if (down < up || (down == up && bits % 2 == 1)) --bits;
    }
    return static_cast<uint16_t>(bits | (std::signbit(value) ? kSign : 0u));
  }

  /// Floats at, between and next to all neighbouring values, both signs, and infinity.
  std::vector<float> borders() const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    std::vector<float> floats{0.0f, kInfinity};
    for (size_t i = 1; i < values_.size(); ++i) {
      for (const double border : {values_[i], (values_[i] + values_[i - 1]) / 2}) {
        const float middle = static_cast<float>(border);
        for (const float v :
             {std::nextafterf(middle, 0.0f), middle, std::nextafterf(middle, kInfinity)}) {
          floats.push_back(v);
        }
      }
    }
    const size_t positive = floats.size();
    for (size_t i = 0; i < positive; ++i) floats.push_back(-floats[i]);
    return floats;
  }

 private:
  Format format_;
  std::vector<double> values_;
};

template <class Stored>
struct Conversion;

template <>
struct Conversion<Float16> {
  static constexpr Format kFormat{10, 15};
  static Float16 from(float value) { return to_float16(value); }
};

template <>
struct Conversion<BFloat16> {
  static constexpr Format kFormat{7, 127};
  static BFloat16 from(float value) { return to_bfloat16(value); }
};

template <class Stored>
void check_every_value() {
  constexpr Format format = Conversion<Stored>::kFormat;
  for (uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const Stored stored{static_cast<uint16_t>(bits)};
    const float value = to_float(stored);
    const double expected = format.decode(bits);
    const uint16_t back = Conversion<Stored>::from(value).bits;
    if (std::isnan(expected)) {
      CHECK(std::isnan(value));
      CHECK((back & ~kSign) > format.infinity());
      CHECK_EQ(back & kSign, bits & kSign);
    } else {
      CHECK_EQ(static_cast<double>(value), expected);
      CHECK_EQ(std::signbit(value), (bits & kSign) != 0);
      CHECK_EQ(back, stored.bits);
    }
  }
}

template <class Stored>
void check_rounding(const std::vector<float>& floats) {
  constexpr Format format = Conversion<Stored>::kFormat;
  const SlowRounding slow(format);
  for (const float value : floats) {
    if (std::isnan(value)) {
      CHECK((Conversion<Stored>::from(value).bits & ~kSign) > format.infinity());
    } else if (Conversion<Stored>::from(value).bits != slow.encode(value)) {
      const check::Note note(check::text(value));
      CHECK_EQ(Conversion<Stored>::from(value).bits, slow.encode(value));
    }
  }
}

/// All bit patterns alike: half of the exponents are far out of a half's range, some are NaN.
std::vector<float> random_patterns(uint64_t seed, int count) {
  Random random(seed);
  std::vector<float> floats;
  for (int i = 0; i < count; ++i)
    floats.push_back(float_from_bits(static_cast<uint32_t>(random.bits())));
  return floats;
}

/// Between 2^-27 and 2^17: where a half changes from zero to subnormal to normal to infinity.
std::vector<float> random_near_half_range(uint64_t seed, int count) {
  Random random(seed);
  std::vector<float> floats;
  for (int i = 0; i < count; ++i) {
    const double value =
        std::ldexp(random.real(1.0, 2.0), static_cast<int>(random.integer(-27, 16)));
    floats.push_back(static_cast<float>(random.integer(0, 1) ? value : -value));
  }
  return floats;
}

std::vector<float> nan_patterns() {
  return {float_from_bits(0x7f800001u), float_from_bits(0xff800001u), float_from_bits(0x7fffffffu),
          float_from_bits(0xffffffffu), float_from_bits(0x7fc00000u), float_from_bits(0x7f8fffffu)};
}

TEST(bits_and_floats_are_the_same_words) {
  CHECK_EQ(bits_from_float(1.0f), 0x3f800000u);
  CHECK_EQ(bits_from_float(-0.0f), 0x80000000u);
  CHECK_EQ(float_from_bits(0x40490fdbu), 3.14159274101257324f);
}

TEST(every_half_converts_to_float_and_back) { check_every_value<Float16>(); }

TEST(every_bfloat16_converts_to_float_and_back) { check_every_value<BFloat16>(); }

TEST(halves_round_to_nearest_even_at_every_border) {
  check_rounding<Float16>(SlowRounding(Conversion<Float16>::kFormat).borders());
  CHECK_EQ(to_float16(65504.0f).bits, uint16_t{0x7bff});
  CHECK_EQ(to_float16(65519.996f).bits, uint16_t{0x7bff});
  CHECK_EQ(to_float16(65520.0f).bits, uint16_t{0x7c00});
  CHECK_EQ(to_float16(-1e30f).bits, uint16_t{0xfc00});
  CHECK_EQ(to_float16(0x1p-25f).bits, uint16_t{0});
  CHECK_EQ(to_float16(std::nextafterf(0x1p-25f, 1.0f)).bits, uint16_t{1});
}

TEST(bfloat16s_round_to_nearest_even_at_every_border) {
  check_rounding<BFloat16>(SlowRounding(Conversion<BFloat16>::kFormat).borders());
  CHECK_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, uint16_t{0x7f80});
  CHECK_EQ(to_bfloat16(-std::numeric_limits<float>::denorm_min()).bits, uint16_t{0x8000});
}

TEST(random_floats_round_as_the_slow_search_does) {
  const std::vector<float> patterns = random_patterns(31, 1000000);
  check_rounding<Float16>(patterns);
  check_rounding<BFloat16>(patterns);
  check_rounding<Float16>(random_near_half_range(32, 1000000));
}

TEST(nan_stays_nan) {
  check_rounding<Float16>(nan_patterns());
  check_rounding<BFloat16>(nan_patterns());
  for (const float nan : nan_patterns()) {
    const uint32_t kept = bits_from_float(rounded_to_tf32(nan)) & ~0x1fffu;  // what is read of it
    CHECK(std::isnan(float_from_bits(kept)));
  }
}

TEST(tf32_rounds_to_nearest_and_ties_away_from_zero) {
  const auto rounded = [](uint32_t bits) {
    return bits_from_float(rounded_to_tf32(float_from_bits(bits)));
  };
  for (const uint32_t sign : {0u, 0x80000000u}) {
    CHECK_EQ(rounded(sign | 0x3f800fffu), sign | 0x3f800000u);
    CHECK_EQ(rounded(sign | 0x3f801000u), sign | 0x3f802000u);
    CHECK_EQ(rounded(sign | 0x3f803000u), sign | 0x3f804000u);
    CHECK_EQ(rounded(sign | 0x3fffffffu), sign | 0x40000000u);
    CHECK_EQ(rounded(sign | 0x7f800000u), sign | 0x7f800000u);
    CHECK_EQ(rounded(sign), sign);
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
