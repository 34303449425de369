// SPDX-License-Identifier: MIT
// Sparse convolution on tensor cores: what kernels/sparse_conv.h specifies, a tile of output rows
// and channels at a time.
//
//   find the input rows of the tile, tap by tap, and which groups of 8 rows a tap has any for
//   for each tap that has any and each block of input channels (32, or 16 of float):
//     copy the rows to shared memory, kStages - 1 steps ahead, across taps
//     for each group of 8 rows that the tap has any for: sums += weights * rows
//   sums -> bias, residual, relu -> rows of the output
//
// Rows are taken in an order that puts rows with the same taps together (kernels/row_order.h), so
// that groups are skipped. A warp owns 32 channels and 64 rows. Weights come in fragments
// (kernels/fragments.h) from global memory straight to registers, one step ahead; every number is
// summed by one thread, step after step, so a result is the same bit for bit in every run.
//
// Shared memory: 64 bytes a row and stage, 4 bytes a row and tap (of 32), under 50 KB.
#pragma once

#include <cstdint>
#include <tuple>

#include "core/bits.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/warp_block.h"
#include "kernels/conv_output.h"
#include "kernels/fragments.h"

namespace tsl {

constexpr int kStages = 4;
constexpr int kWarpRows = 64;
constexpr int kWarpGroups = kWarpRows / kFragmentRows;

template <class S>
struct ImplicitGemm {
  NeighborTable table;
  int64_t num_pairs;
  int kernel_volume;
  const int32_t* order;  // (num_out,) the output rows, in the order of the tiles
  int64_t num_out;
  const S* feats;  // (num_in, in_channels), 16-byte aligned
  int64_t num_in;
  int in_channels;       // whole words of 16 bytes
  const Words4* weight;  // packed
  ConvOutput<S> out;
};

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

template <class Shape>
struct TileMemory {
  static constexpr int kBallots = Shape::kRows / kWarpLanes;

  Panel<Shape::kRows> rows[kStages];
  int32_t in_row[kMaskBits][Shape::kRows];  // kNoRow where the tap has none
  int32_t out_row[Shape::kRows];            // kNoRow behind the last
  uint8_t groups[kMaskBits][kBallots];      // bit g: rows 8 g to 8 g + 7 of the 32 have the tap
  int32_t taps[kMaskBits];                  // those that any row has
  int32_t num_taps;

  TSL_HOST_DEVICE bool has(int tap, int row) const {
    return (groups[tap][row / kWarpLanes] >> (row % kWarpLanes / kFragmentRows) & 1) != 0;
  }
};

template <class S, class Shape, class Block>
class ImplicitGemmTile {
 public:
  TSL_HOST_DEVICE ImplicitGemmTile(Block& block, const ImplicitGemm<S>& gemm, int64_t row_tile,
                                   int channel_tile)
      : block_(block),
        gemm_(gemm),
        memory_(block.template shared<TileMemory<Shape>>()),
        layout_(FragmentLayout::of<S>(gemm.in_channels, gemm.out.channels)),
        first_row_(row_tile * Shape::kRows),
        first_channel_(channel_tile * Shape::kChannels) {}

  TSL_HOST_DEVICE void run() {
    block_.warps([&](auto warp) { warp.each([&](auto lane) { lane(sums_) = Sums{}; }); });
    for (int word = 0; word < gemm_.table.words; ++word) {
      find_rows(word);
      list_taps(word);
      multiply(word);
      block_.sync();
    }
    block_.warps([&](auto warp) { store(warp); });
  }

 private:
  template <class T>
  using Registers = typename Block::template Registers<T>;
  using In = Operand<S>;

  static constexpr int kPieceRows = 16;   // rows that a warp turns round at a time
  static constexpr int kPieceWidth = 36;  // floats; 32 would put a column into one bank
  static_assert(Shape::kWarps * kPieceRows * kPieceWidth * sizeof(float) <=
                    sizeof(TileMemory<Shape>::rows),
                "the pieces of the warps take the place of the rows");

  struct Sums {
    float v[kBlockFragments][kWarpGroups][4];
  };

  /// Of a block of input channels and one of output channels.
  struct Weights {
    Words4 v[kBlockFragments][kBlockFragments];  // input, output
  };

  /// A tap and a block of input channels.
  struct Step {
    int tap = 0;  // in the list of the tile's
    int channels = 0;

    TSL_HOST_DEVICE void advance(int blocks) {
      if (++channels < blocks) return;
      channels = 0;
      ++tap;
    }
  };

  TSL_HOST_DEVICE int taps_in(int word) const {
    const int left = gemm_.kernel_volume - word * kMaskBits;
    return left < kMaskBits ? left : kMaskBits;
  }
  TSL_HOST_DEVICE int channel_blocks() const { return layout_.inputs / kBlockFragments; }
  template <class Warp>
  TSL_HOST_DEVICE static int row_of(const Warp& warp) {
    return warp.index % Shape::kRowWarps * kWarpRows;
  }
  template <class Warp>
  TSL_HOST_DEVICE int channel_of(const Warp& warp) const {
    return first_channel_ + warp.index / Shape::kRowWarps * kOutBlock;
  }
  template <class Warp>
  TSL_HOST_DEVICE bool has_channels(const Warp& warp) const {
    return channel_of(warp) < gemm_.out.channels;
  }

  /// Input rows behind a word of the masks, and the groups of rows that have each of its taps.
  TSL_HOST_DEVICE void find_rows(int word) {
    const int taps = taps_in(word);
    block_.warps([&](auto warp) {
      for (int part = warp.index; part < TileMemory<Shape>::kBallots; part += Shape::kWarps) {
        Registers<uint32_t> bits;
        Registers<uint32_t> rows;
        warp.each([&](auto lane) {
          lane(bits) = write_rows(part * kWarpLanes + lane.index, word);
          lane(rows) = 0;
        });
        for (int tap = 0; tap < taps; ++tap) {
          const uint32_t found =
              warp.ballot([&](auto lane) { return (lane(bits) >> tap & 1u) != 0; });
          warp.each([&](auto lane) { lane(rows) = lane.index == tap ? found : lane(rows); });
        }
        warp.each([&](auto lane) { memory_.groups[lane.index][part] = groups_of(lane(rows)); });
      }
    });
    block_.sync();
  }

  /// Fills a row of the table in shared memory; returns the bits of the taps that it has.
  TSL_HOST_DEVICE uint32_t write_rows(int row, int word) const {
    const NeighborTable& table = gemm_.table;
    const bool is_row = first_row_ + row < gemm_.num_out;
    const int32_t out_row = is_row ? gemm_.order[first_row_ + row] : kNoRow;
    if (is_row && (out_row < 0 || out_row >= gemm_.num_out)) {
      refuse_row("implicit_gemm: order must hold the output rows", first_row_ + row,
                 "Pass what order_rows returned.");
    }
    const uint32_t bits = is_row ? table.mask[int64_t{out_row} * table.words + word] : 0;
    int64_t at = bits ? table.place(out_row, word * kMaskBits + lowest_bit(bits)) : 0;
    if (at < 0 || at + count_bits(bits) > gemm_.num_pairs) {
      refuse_row("implicit_gemm: ptr must point into rows", out_row, "Pass arrays of one map.");
    }
    memory_.out_row[row] = out_row;
    for (int tap = 0; tap < taps_in(word); ++tap) {
      const bool has_tap = (bits >> tap & 1u) != 0;
      const int32_t in_row = has_tap ? table.rows[at++] : kNoRow;
      if (has_tap && (in_row < 0 || in_row >= gemm_.num_in)) {
        refuse_row("implicit_gemm: rows must be rows of the input", at - 1,
                   "Point at existing rows.");
      }
      memory_.in_row[tap][row] = in_row;
    }
    return bits;
  }

  /// Of 32 rows: bit g for rows 8 g to 8 g + 7.
  TSL_HOST_DEVICE static uint8_t groups_of(uint32_t rows) {
    uint32_t groups = 0;
    TSL_UNROLL
    for (int g = 0; g < kWarpLanes / kFragmentRows; ++g) {
      groups |= (rows >> (kFragmentRows * g) & 0xffu) != 0 ? 1u << g : 0u;
    }
    return static_cast<uint8_t>(groups);
  }

  TSL_HOST_DEVICE void list_taps(int word) {
    block_.warps([&](auto warp) {
      if (warp.index > 0) return;
      const uint32_t used = warp.ballot([&](auto lane) {
        uint32_t groups = 0;
        for (uint8_t part : memory_.groups[lane.index]) groups |= part;
        return lane.index < taps_in(word) && groups != 0;
      });
      warp.each([&](auto lane) {
        const uint32_t before = used & ((1u << lane.index) - 1u);
        if (used >> lane.index & 1u) memory_.taps[count_bits(before)] = lane.index;
        if (lane.index == 0) memory_.num_taps = count_bits(used);
      });
    });
    block_.sync();
  }

  TSL_HOST_DEVICE void multiply(int word) {
    const int steps = memory_.num_taps * channel_blocks();
    if (steps == 0) return;
    Step ahead, step;
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) copy_rows(ahead, stage);
      ahead.advance(channel_blocks());
      block_.commit();
    }
    Registers<Weights> weights, next;
    fetch(word, step, next);
    for (int i = 0; i < steps; ++i) {
      block_.template wait<kStages - 2>();
      block_.sync();  // the rows of this step are there, and nobody reads those of the last
      if (i + kStages - 1 < steps) copy_rows(ahead, (i + kStages - 1) % kStages);
      ahead.advance(channel_blocks());
      block_.commit();
      block_.warps([&](auto warp) { warp.each([&](auto lane) { lane(weights) = lane(next); }); });
      const int tap = memory_.taps[step.tap];
      step.advance(channel_blocks());
      if (i + 1 < steps) fetch(word, step, next);
      block_.warps([&](auto warp) {
        if (has_channels(warp)) multiply_groups(warp, weights, tap, memory_.rows[i % kStages]);
      });
    }
  }

  /// Starts copying the rows of a step.
  TSL_HOST_DEVICE void copy_rows(const Step& step, int stage) {
    const int tap = memory_.taps[step.tap];
    block_.warps([&](auto warp) {
      warp.each([&](auto lane) {
        for (int i = lane.thread; i < Shape::kRows * kRowWords; i += Shape::kThreads) {
          const int row = i / kRowWords;
          if (!memory_.has(tap, row)) continue;
          const int word = i % kRowWords;
          const int channel = step.channels * In::kBlock + word * In::kWord;
          const int32_t in_row = memory_.in_row[tap][row];
          const bool is_there = in_row != kNoRow && channel < gemm_.in_channels;
          const int64_t from = is_there ? int64_t{in_row} * gemm_.in_channels + channel : 0;
          lane.copy(memory_.rows[stage].at(row, word), gemm_.feats + from, is_there);
        }
      });
    });
  }

  /// The weights of a step, for each warp those of its channels.
  TSL_HOST_DEVICE void fetch(int word, const Step& step, Registers<Weights>& weights) {
    const int64_t tap = word * kMaskBits + memory_.taps[step.tap];
    block_.warps([&](auto warp) {
      if (!has_channels(warp)) return;
      const int output = channel_of(warp) / kOutFragment;
      warp.each([&](auto lane) {
        TSL_UNROLL
        for (int in = 0; in < kBlockFragments; ++in) {
          const int64_t at = layout_.at(tap, step.channels * kBlockFragments + in, output);
          TSL_UNROLL
          for (int out = 0; out < kBlockFragments; ++out) {
            lane(weights).v[in][out] = gemm_.weight[at + out * kWarpLanes + lane.index];
          }
        }
      });
    });
  }

  template <class Warp>
  TSL_HOST_DEVICE void multiply_groups(const Warp& warp, Registers<Weights>& weights, int tap,
                                       Panel<Shape::kRows>& rows) {
    const int first = row_of(warp);
    const uint8_t* const groups = memory_.groups[tap] + first / kWarpLanes;
    const uint32_t present = groups[0] | static_cast<uint32_t>(groups[1]) << (kWarpGroups / 2);
    TSL_UNROLL
    for (int group = 0; group < kWarpGroups; ++group) {
      if (!(present >> group & 1u)) continue;
      Registers<Words4> words;  // of each word of the rows its channels at the lane
      warp.load_matrices([&](auto lane) { return lane(words).w; },
                         [&](auto lane) {
                           const int row = first + group * kFragmentRows + lane.index % 8;
                           return rows.at(row, lane.index / 8);
                         });
      TSL_UNROLL
      for (int in = 0; in < kBlockFragments; ++in) {
        TSL_UNROLL
        for (int out = 0; out < kBlockFragments; ++out) {
          warp.template multiply<S>([&](auto lane) { return lane(sums_).v[out][group]; },
                                    [&](auto lane) { return lane(weights).v[in][out].w; },
                                    [&](auto lane) { return lane(words).w + 2 * in; });
        }
      }
    }
  }

  /// Sums lie across the lanes, channels down; they are turned round in shared memory, so that rows
  /// are written 16 bytes at a time.
  template <class Warp>
  TSL_HOST_DEVICE void store(const Warp& warp) {
    if (!has_channels(warp)) return;
    float* const piece =
        reinterpret_cast<float*>(memory_.rows) + warp.index * kPieceRows * kPieceWidth;
    TSL_UNROLL
    for (int first = 0; first < kWarpRows; first += kPieceRows) {
      warp.each([&](auto lane) { put(lane, first / kFragmentRows, piece); });
      warp.sync();
      warp.each([&](auto lane) {
        constexpr int kRowPieces = kOutBlock / kOutputChannels;
        for (int i = lane.index; i < kPieceRows * kRowPieces; i += kWarpLanes) {
          const int row = i / kRowPieces;
          const int channel = i % kRowPieces * kOutputChannels;
          const int32_t out_row = memory_.out_row[row_of(warp) + first + row];
          if (out_row == kNoRow) continue;
          gemm_.out.write(out_row, channel_of(warp) + channel, piece + row * kPieceWidth + channel);
        }
      });
      warp.sync();
    }
  }

  template <class Lane>
  TSL_HOST_DEVICE void put(const Lane& lane, int first_group, float* piece) {
    TSL_UNROLL
    for (int out = 0; out < kBlockFragments; ++out) {
      TSL_UNROLL
      for (int group = 0; group < kPieceRows / kFragmentRows; ++group) {
        TSL_UNROLL
        for (int i = 0; i < 4; ++i) {
          const Place place = place_in_d(lane.index, i);
          const int row = group * kFragmentRows + place.column;
          piece[row * kPieceWidth + out * kOutFragment + place.row] =
              lane(sums_).v[out][first_group + group][i];
        }
      }
    }
  }

  Block& block_;
  const ImplicitGemm<S>& gemm_;
  TileMemory<Shape>& memory_;
  FragmentLayout layout_;
  int64_t first_row_;
  int first_channel_;
  Registers<Sums> sums_;
};

}  // namespace tsl
