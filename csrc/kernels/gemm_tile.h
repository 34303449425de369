// SPDX-License-Identifier: MIT
// What implicit GEMM (kernels/implicit_gemm.h) is given, and what a tile of it keeps in shared
// memory.
//
// It sums convolutions onto the same rows, part after part; each has its own features, channels and
// weight. Parts of one table are a convolution over features that lie side by side, without an
// array that holds them all. A part without a table reads row o for row o, through one tap, as the
// shortcut of a residual block does.
#pragma once

#include <cstdint>
#include <tuple>

#include "core/hash_table.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "kernels/conv_output.h"
#include "kernels/fragments.h"

namespace tsl {

constexpr int kStages = 4;
constexpr int kWarpRows = 64;
constexpr int kWarpGroups = kWarpRows / kFragmentRows;
constexpr int kMaxParts = kMaxBiases;
constexpr int kNoTable = -1;
constexpr int kOwnRow = kMaskBits;  // a tap behind those of a word: from the output row itself

/// The input rows behind each output row.
struct GemmTable {
  NeighborTable view;
  int64_t num_pairs;
  int kernel_volume;
  int64_t num_in;

  TSL_HOST_DEVICE int taps_in(int word) const {
    const int left = kernel_volume - word * kMaskBits;
    return left < kMaskBits ? left : kMaskBits;
  }
};

template <class S>
struct GemmPart {
  int table;             // its number, or kNoTable
  int in_channels;       // whole words of 16 bytes
  const S* feats;        // (num_in, in_channels), 16-byte aligned
  const Words4* weight;  // packed

  TSL_HOST_DEVICE int channel_blocks() const {
    return (in_channels + Operand<S>::kBlock - 1) / Operand<S>::kBlock;
  }
};

template <class S>
struct ImplicitGemm {
  GemmTable tables[kMaxParts];
  int num_tables;  // at least one: if no part has a table, one without taps
  int num_parts;
  GemmPart<S> parts[kMaxParts];
  const int32_t* order;  // (num_out,) the output rows, in the order of the tiles
  int64_t num_out;
  ConvOutput<S> out;
};

/// A table without taps.
inline GemmTable empty_table() { return {{nullptr, nullptr, nullptr, 1}, 0, 0, 0}; }

/// Warps of a tile along its rows and along its channels.
template <int row_warps, int channel_warps>
struct TileShape {
  static constexpr int kWarps = row_warps * channel_warps;
  static constexpr int kThreads = kWarpLanes * kWarps;
  static constexpr int kRows = kWarpRows * row_warps;
  static constexpr int kChannels = kOutBlock * channel_warps;
  static constexpr int kRowWarps = row_warps;

  static constexpr int64_t row_tiles(int64_t num_out) { return (num_out + kRows - 1) / kRows; }
  static constexpr int channel_tiles(int out_channels) {
    return (out_channels + kChannels - 1) / kChannels;
  }
};

/// All that are compiled, by number. Which one is used is decided in Python, ops/gemm_tiles.py.
using TileShapes = std::tuple<TileShape<1, 1>, TileShape<2, 1>, TileShape<1, 2>, TileShape<2, 2>,
                              TileShape<1, 3>, TileShape<2, 3>, TileShape<1, 4>, TileShape<2, 4>>;
constexpr int kTileShapes = std::tuple_size_v<TileShapes>;

/// A part's tap, one of a word's or kOwnRow; read in one go.
struct alignas(2) PartTap {
  uint8_t part;
  uint8_t tap;
};

template <class Shape>
struct TileMemory {
  static constexpr int kBallots = Shape::kRows / kWarpLanes;

  Panel<Shape::kRows> rows[kStages];
  int32_t in_row[kMaskBits + 1][Shape::kRows];  // kNoRow where the tap has none
  uint8_t groups[kMaskBits + 1][kBallots];      // bit g: rows 8 g to 8 g + 7 of the 32 have the tap
  PartTap taps[kMaxParts * kMaskBits];          // those that any row has, part after part
  int32_t num_steps;                            // over them and their blocks of channels

  /// Bit g: rows 8 g to 8 g + 7 of the tile have the tap.
  TSL_HOST_DEVICE uint32_t groups_with(int tap) const {
    uint32_t bits = 0;
    TSL_UNROLL
    for (int rows32 = 0; rows32 < kBallots; ++rows32) {
      bits |= static_cast<uint32_t>(groups[tap][rows32]) << (kWarpLanes / kFragmentRows * rows32);
    }
    return bits;
  }
};

}  // namespace tsl
