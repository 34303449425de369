// SPDX-License-Identifier: MIT
// Which numbers of a matrix product each lane of a warp holds: D (16, 8) += A (16, 16) B (16, 8),
// the instruction mma.m16n8k16 on 16-bit types.
//
//   A  word w (two numbers that are neighbours in a row):  row lane/4 + 8 (w%2),
//                                                          columns 2 (lane%4) + 8 (w/2) and one on
//   B  word w (two numbers that are neighbours in a column): column lane/4,
//                                                          rows 2 (lane%4) + 8 w and one on
//   D  number i:                                           row lane/4 + 8 (i/2),
//                                                          column 2 (lane%4) + i%2
// A convolution computes its output transposed: A are weights (output channels x input channels),
// B are rows of features. So a lane reads its four words of A as 16 bytes, once they are packed:
// fragment after fragment, lane after lane. And rows without an input are left out eight at a time.
//
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "kernels/block.h"

namespace tsl {

constexpr int kFragment = 16;      // output channels, and input channels, of a fragment of weights
constexpr int kFragmentRows = 8;   // rows of features in one product
constexpr int kChannelBlock = 32;  // channels are padded to a multiple with zero weights

struct Place {
  int row, column;
};

TSL_HOST_DEVICE Place place_in_a(int lane, int word) {
  return {lane / 4 + 8 * (word % 2), 2 * (lane % 4) + 8 * (word / 2)};
}

TSL_HOST_DEVICE Place place_in_b(int lane, int word) {
  return {2 * (lane % 4) + 8 * word, lane / 4};
}

TSL_HOST_DEVICE Place place_in_d(int lane, int i) {
  return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2};
}

/// 16 bytes: what a lane holds of a fragment of weights, or 8 channels of a row of features.
struct alignas(16) Words4 {
  uint32_t w[4];
};

constexpr int kWordChannels = 8;  // channels in a Words4
constexpr int kRowWords = kChannelBlock / kWordChannels;
constexpr int kBlockFragments = kChannelBlock / kFragment;

/// 32 channels of some rows, in shared memory. Words of a row are exchanged so that 8 rows of the
/// same channels, which the tensor cores read at once, lie in different banks.
template <int rows>
struct Panel {
  Words4 words[rows][kRowWords];

  TSL_HOST_DEVICE Words4* at(int row, int word) {
    return &words[row][word ^ (row / 2 % kRowWords)];
  }
};

TSL_HOST_DEVICE int fragments_of(int channels) {
  return (channels + kChannelBlock - 1) / kChannelBlock * (kChannelBlock / kFragment);
}

/// Where the fragments of a packed weight lie: (kernel_volume, inputs, outputs, 32 lanes).
struct FragmentLayout {
  int inputs;   // fragments along the input channels
  int outputs;  // fragments along the output channels

  TSL_HOST_DEVICE static FragmentLayout of(int in_channels, int out_channels) {
    return {fragments_of(in_channels), fragments_of(out_channels)};
  }
  TSL_HOST_DEVICE int64_t at(int64_t tap, int input, int output) const {
    return ((tap * inputs + input) * outputs + output) * kWarpLanes;
  }
  TSL_HOST_DEVICE int64_t size(int64_t kernel_volume) const { return at(kernel_volume, 0, 0); }
};

/// Packs a weight; item i is what one lane holds of one fragment.
template <class S>
struct PackWeight {
  const S* weight;  // (kernel_volume, in_channels, out_channels); channels exchanged if transposed
  int kernel_volume;
  int in_channels;   // of the convolution to compute
  int out_channels;  // of the convolution to compute
  bool transposed;   // stored with the channels exchanged: the weight of the adjoint convolution
  bool mirrored;     // tap t uses the weight of tap K-1-t
  Words4* packed;    // FragmentLayout

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const FragmentLayout layout = FragmentLayout::of(in_channels, out_channels);
    const int lane = static_cast<int>(i % kWarpLanes);
    const int64_t fragment = i / kWarpLanes;
    const int output = static_cast<int>(fragment % layout.outputs);
    const int input = static_cast<int>(fragment / layout.outputs % layout.inputs);
    const int64_t tap = fragment / layout.outputs / layout.inputs;
    Words4 words;
    for (int w = 0; w < 4; ++w) {
      const Place place = place_in_a(lane, w);
      const int out = kFragment * output + place.row;
      const int in = kFragment * input + place.column;
      words.w[w] = bits_at(tap, in, out) | bits_at(tap, in + 1, out) << 16;
    }
    packed[i] = words;
  }

 private:
  TSL_HOST_DEVICE uint32_t bits_at(int64_t tap, int in, int out) const {
    if (in >= in_channels || out >= out_channels) return 0;
    const int64_t matrix = (mirrored ? kernel_volume - 1 - tap : tap) * in_channels * out_channels;
    const int64_t at =
        transposed ? int64_t{out} * in_channels + in : int64_t{in} * out_channels + out;
    return weight[matrix + at].bits;
  }
};

}  // namespace tsl
