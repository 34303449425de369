// SPDX-License-Identifier: MIT
// Which numbers of a matrix product each lane of a warp holds: D (16, 8) += A (16, 8 n) B (8 n, 8)
// with n numbers in a word of 32 bits, the instructions mma.m16n8k16 on 16-bit types (n = 2) and
// mma.m16n8k8 on TF32 (n = 1).
//
//   A  word w (n numbers that are neighbours in a row):     row lane/4 + 8 (w%2),
//                                                           from column n (lane%4) + 4 n (w/2) on
//   B  word w (n numbers that are neighbours in a column):  column lane/4,
//                                                           from row n (lane%4) + 4 n w on
//   D  number i:                                            row lane/4 + 8 (i/2),
//                                                           column 2 (lane%4) + i%2
// A convolution computes its output transposed: A are weights (output channels x input channels),
// B are rows of features. So a lane reads its four words of A as 16 bytes, once they are packed:
// fragment after fragment, lane after lane. And rows without an input are left out eight at a time.
//
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "for mma.m16n8k8".
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/macros.h"
#include "kernels/warp_block.h"

namespace tsl {

constexpr int kFragmentRows = 8;  // rows of features in a product
constexpr int kOutFragment = 16;  // output channels in a product
constexpr int kOutBlock = 32;     // output channels of a warp
constexpr int kBlockFragments =
    2;                        // fragments in a block, of output channels and of input channels
constexpr int kRowWords = 4;  // 16-byte words in a block of input channels of a row

/// Channels of type S; float is rounded to TF32.
template <class S>
struct Operand {
  static constexpr int kNumbers = 4 / sizeof(S);              // in a word of 32 bits
  static constexpr int kWord = 4 * kNumbers;                  // in 16 bytes
  static constexpr int kFragment = 8 * kNumbers;              // input channels in a product
  static constexpr int kBlock = kBlockFragments * kFragment;  // input channels: 64 bytes of a row
};

struct Place {
  int row, column;
};

template <class S>
TSL_HOST_DEVICE Place place_in_a(int lane, int word) {
  constexpr int n = Operand<S>::kNumbers;
  return {lane / 4 + 8 * (word % 2), n * (lane % 4) + 4 * n * (word / 2)};
}

template <class S>
TSL_HOST_DEVICE Place place_in_b(int lane, int word) {
  constexpr int n = Operand<S>::kNumbers;
  return {n * (lane % 4) + 4 * n * word, lane / 4};
}

TSL_HOST_DEVICE Place place_in_d(int lane, int i) {
  return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2};
}

/// 16 bytes: what a lane holds of a fragment of weights, or some channels of a row of features.
struct alignas(16) Words4 {
  uint32_t w[4];
};

/// A block of input channels of some rows, in shared memory. Words of a row are exchanged so that 8
/// rows of the same channels, which the tensor cores read at once, lie in different banks.
template <int rows>
struct Panel {
  Words4 words[rows][kRowWords];

  TSL_HOST_DEVICE Words4* at(int row, int word) {
    return &words[row][word ^ (row / 2 % kRowWords)];
  }
};

/// Where the fragments of a packed weight lie: (kernel_volume, inputs, outputs, 32 lanes).
struct FragmentLayout {
  int inputs;   // fragments along the input channels
  int outputs;  // fragments along the output channels

  /// Channels are filled up with zero weights to whole blocks.
  template <class S>
  TSL_HOST_DEVICE static FragmentLayout of(int in_channels, int out_channels) {
    constexpr int kIn = Operand<S>::kBlock;
    return {(in_channels + kIn - 1) / kIn * kBlockFragments,
            (out_channels + kOutBlock - 1) / kOutBlock * kBlockFragments};
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
    using In = Operand<S>;
    const FragmentLayout layout = FragmentLayout::of<S>(in_channels, out_channels);
    const int lane = static_cast<int>(i % kWarpLanes);
    const int64_t fragment = i / kWarpLanes;
    const int output = static_cast<int>(fragment % layout.outputs);
    const int input = static_cast<int>(fragment / layout.outputs % layout.inputs);
    const int64_t tap = fragment / layout.outputs / layout.inputs;
    Words4 words{};
    for (int w = 0; w < 4; ++w) {
      const Place place = place_in_a<S>(lane, w);
      const int out = kOutFragment * output + place.row;
      const int in = In::kFragment * input + place.column;
      for (int n = 0; n < In::kNumbers; ++n) words.w[w] |= bits_at(tap, in + n, out) << (16 * n);
    }
    packed[i] = words;
  }

 private:
  TSL_HOST_DEVICE uint32_t bits_at(int64_t tap, int in, int out) const {
    if (in >= in_channels || out >= out_channels) return 0;
    const int64_t matrix = (mirrored ? kernel_volume - 1 - tap : tap) * in_channels * out_channels;
    const int64_t at =
        transposed ? int64_t{out} * in_channels + in : int64_t{in} * out_channels + out;
    if constexpr (std::is_same_v<S, float>) {
      return bits_from_float(rounded_to_tf32(weight[matrix + at]));
    } else {
      return weight[matrix + at].bits;
    }
  }
};

}  // namespace tsl
