// SPDX-License-Identifier: MIT
// How sums become the output of a convolution:
//   out = relu(sum + biases + residual), rounded once; NaN passes the relu
// for 8 channels of a row at a time, in words of 16 bytes where the channels are whole words.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "kernels/fragments.h"

namespace tsl {

constexpr int kOutputChannels = 8;  // written at once
constexpr int kMaxBiases = 4;       // of convolutions that are summed

/// S is float or a 16-bit type. Pointers are 16-byte aligned.
template <class S>
struct ConvOutput {
  const S* biases[kMaxBiases];  // (channels,) each
  int num_biases;
  const S* residual;  // (rows, channels) or null
  S* out;             // (rows, channels)
  int channels;
  bool relu;

  /// Channels `channel` to `channel` + 7 of a row, as far as there are any.
  TSL_HOST_DEVICE void write(int64_t row, int channel, const float* sums) const {
    constexpr int kWord = Operand<S>::kWord;
    const int64_t at = row * channels + channel;
    if (channels % kOutputChannels == 0) {
      if (channel >= channels) return;
      TSL_UNROLL
      for (int c = 0; c < kOutputChannels; c += kWord) write_word(at + c, channel + c, sums + c);
      return;
    }
    TSL_ROLLED
    for (int c = 0; c < kOutputChannels && channel + c < channels; ++c) {
      float value = sums[c];
      TSL_ROLLED
      for (int i = 0; i < num_biases; ++i) value += widened<float>(biases[i][channel + c]);
      out[at + c] = finished(value, residual ? residual[at + c] : S{});
    }
  }

 private:
  struct alignas(sizeof(Words4)) Word {
    S numbers[Operand<S>::kWord];
  };

  TSL_HOST_DEVICE void write_word(int64_t at, int channel, const float* sums) const {
    constexpr int kWord = Operand<S>::kWord;
    float values[kWord];
    TSL_UNROLL
    for (int c = 0; c < kWord; ++c) values[c] = sums[c];
    TSL_ROLLED
    for (int i = 0; i < num_biases; ++i) {
      TSL_UNROLL
      for (int c = 0; c < kWord; ++c) values[c] += widened<float>(biases[i][channel + c]);
    }
    Word word;
    Word other{};
    if (residual) other = *reinterpret_cast<const Word*>(residual + at);
    TSL_UNROLL
    for (int c = 0; c < kWord; ++c) word.numbers[c] = finished(values[c], other.numbers[c]);
    *reinterpret_cast<Word*>(out + at) = word;
  }

  TSL_HOST_DEVICE S finished(float value, S other) const {
    if (residual) value += widened<float>(other);
    if (relu && value <= 0.0f) value = 0.0f;
    return narrowed<S>(value);
  }
};

}  // namespace tsl
