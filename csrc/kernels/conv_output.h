// SPDX-License-Identifier: MIT
// How sums become the output of a convolution:
//   out = relu(sum + bias + residual), rounded once; NaN passes the relu
// for 8 channels of a row at a time, where they are 16 bytes.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "kernels/fragments.h"

namespace tsl {

/// S is a 16-bit type. Pointers are 16-byte aligned.
template <class S>
struct ConvOutput {
  const S* bias;      // (channels,) or null
  const S* residual;  // (rows, channels) or null
  S* out;             // (rows, channels)
  int channels;
  bool relu;

  /// Channels `channel` to `channel` + 7 of a row, as far as there are any.
  TSL_HOST_DEVICE void write(int64_t row, int channel, const float* sums) const {
    const int64_t at = row * channels + channel;
    if (channels % kWordChannels == 0) {
      if (channel < channels) write_words(at, channel, sums);
      return;
    }
    for (int c = 0; c < kWordChannels && channel + c < channels; ++c) {
      const uint32_t other = residual ? residual[at + c].bits : 0u;
      out[at + c] = S{static_cast<uint16_t>(finished(sums[c], channel + c, other))};
    }
  }

 private:
  TSL_HOST_DEVICE void write_words(int64_t at, int channel, const float* sums) const {
    Words4 words;
    Words4 other{};
    if (residual) other = *reinterpret_cast<const Words4*>(residual + at);
    TSL_UNROLL
    for (int w = 0; w < 4; ++w) {
      words.w[w] = finished(sums[2 * w], channel + 2 * w, other.w[w] & 0xffffu) |
                   finished(sums[2 * w + 1], channel + 2 * w + 1, other.w[w] >> 16) << 16;
    }
    *reinterpret_cast<Words4*>(out + at) = words;
  }

  /// The bits of a number of the output.
  TSL_HOST_DEVICE uint32_t finished(float sum, int channel, uint32_t other) const {
    if (bias) sum += to_float(bias[channel]);
    if (residual) sum += to_float(S{static_cast<uint16_t>(other)});
    if (relu && sum <= 0.0f) sum = 0.0f;
    return rounded<S>(sum).bits;
  }
};

}  // namespace tsl
