// SPDX-License-Identifier: MIT
// Operands as the kernels for tensor cores take them.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "check.h"
#include "kernels/fragments.h"
#include "numbers.h"

namespace tsl::test {

/// run(type tag) for the 16-bit types.
template <class Run>
void for_half_types(const Run& run) {
  {
    const check::Note note("bfloat16");
    run(BFloat16{});
  }
  const check::Note note("float16");
  run(Float16{});
}

/// And for float32. Its values are bfloat16 here, so that TF32 rounds none of them.
template <class Run>
void for_tensor_core_types(const Run& run) {
  for_half_types(run);
  const check::Note note("float32");
  run(float{});
}

template <class S>
void make_coarse(std::vector<S>* values) {
  if constexpr (std::is_same_v<S, float>) {
    for (float& value : *values) value = to_float(to_bfloat16(value));
  }
}

/// The next number of channels that is whole words.
template <class S>
int whole_words(int channels) {
  return (channels + Operand<S>::kWord - 1) / Operand<S>::kWord * Operand<S>::kWord;
}

/// Values that begin at a multiple of 16 bytes, as tensors do.
template <class S>
class Aligned {
 public:
  explicit Aligned(const std::vector<S>& values)
      : words_(values.size() * sizeof(S) / sizeof(Words4) + 1), size_(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  S* data() { return reinterpret_cast<S*>(words_.data()); }
  std::vector<S> values() { return {data(), data() + size_}; }

 private:
  std::vector<Words4> words_;
  size_t size_;
};

/// Channels filled up to a multiple of 8, as the caller does.
template <class S>
std::vector<S> filled_up(const std::vector<S>& feats, int channels, int width) {
  const int64_t rows = size_of(feats) / channels;
  std::vector<S> wide(static_cast<size_t>(rows * width), stored(0.0, S{}));
  for (int64_t row = 0; row < rows; ++row) {
    const auto from = feats.begin() + row * channels;
    std::copy(from, from + channels, wide.begin() + row * width);
  }
  return wide;
}

}  // namespace tsl::test
