// SPDX-License-Identifier: MIT
// Sums of sparse convolutions on tensor cores: what kernels/sparse_conv.h specifies, for one or
// more parts (kernels/gemm_tile.h), a tile of output rows and channels at a time.
//
//   for each word of the masks of each table:
//     find the input rows of the tile, tap by tap, and which groups of 8 rows a tap has any for
//     for each part of the table, each of its taps that has any and each block of input channels
//     (32, or 16 of float):
//       copy the rows to shared memory, kStages - 1 steps ahead, across taps and parts
//       for each group of 8 rows that the tap has any for: sums += weights * rows
//   sums -> biases, residual, relu -> rows of the output
//
// Rows are taken in an order that puts rows with the same taps together (kernels/row_order.h), so
// that groups are skipped. A warp owns 32 channels and 64 rows. Weights come in fragments
// (kernels/fragments.h) from global memory straight to registers, one step ahead; every number is
// summed by one thread, step after step, so a result is the same bit for bit in every run.
//
// Shared memory: 64 bytes a row and stage, 4 bytes a row and tap (of 33), under 51 KB.
#pragma once

#include <cstdint>

#include "core/hash_table.h"
#include "core/macros.h"
#include "kernels/fragments.h"
#include "kernels/gemm_tile.h"
#include "kernels/tile_taps.h"
#include "kernels/warp_block.h"

namespace tsl {

template <class S, class Shape, class Block>
class ImplicitGemmTile {
 public:
  TSL_HOST_DEVICE ImplicitGemmTile(Block& block, const ImplicitGemm<S>& gemm, int64_t row_tile,
                                   int channel_tile)
      : block_(block),
        gemm_(gemm),
        memory_(block.template shared<TileMemory<Shape>>()),
        taps_(block, gemm, memory_, row_tile * Shape::kRows),
        first_channel_(channel_tile * Shape::kChannels) {}

  TSL_HOST_DEVICE void run() {
    block_.warps([&](auto warp) { warp.each([&](auto lane) { lane(sums_) = Sums{}; }); });
    for (int table = 0; table < gemm_.num_tables; ++table) {
      for (int word = 0; word < gemm_.tables[table].view.words; ++word) {
        taps_.find(table, word);
        multiply(word);
        block_.sync();
      }
    }
    block_.warps([&](auto warp) { store(warp); });
  }

 private:
  template <class T>
  using Registers = typename Block::template Registers<T>;
  using In = Operand<S>;

  static constexpr int kGroups = Shape::kRows / kFragmentRows;
  static_assert(kRowWords * kFragmentRows == kWarpLanes, "a warp copies whole groups of rows");
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

  /// A tap in the list of the tile's, and a block of its part's input channels.
  struct Step {
    int tap = 0;
    int channels = 0;
  };

  TSL_HOST_DEVICE void advance(Step& step) const {
    const int part = memory_.taps[step.tap].part;
    if (++step.channels < gemm_.parts[part].channel_blocks()) return;
    step.channels = 0;
    ++step.tap;
  }
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

  TSL_HOST_DEVICE void multiply(int word) {
    const int steps = memory_.num_steps;
    if (steps == 0) return;
    Step ahead, step;
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) copy_rows(ahead, stage);
      block_.commit();
    }
    Registers<Weights> weights, next;
    fetch(word, step, next);
    for (int i = 0; i < steps; ++i) {
      block_.template wait<kStages - 2>();
      block_.sync();  // the rows of this step are there, and nobody reads those of the last
      if (i + kStages - 1 < steps) copy_rows(ahead, (i + kStages - 1) % kStages);
      block_.commit();
      block_.warps([&](auto warp) { warp.each([&](auto lane) { lane(weights) = lane(next); }); });
      const int tap = memory_.taps[step.tap].tap;
      if (i + 1 < steps) {
        advance(step);
        fetch(word, step, next);
      }
      block_.warps([&](auto warp) {
        if (has_channels(warp)) multiply_groups(warp, weights, tap, memory_.rows[i % kStages]);
      });
    }
  }

  /// Starts copying the rows of a step, and goes on to the next one. A warp copies 8 rows at a
  /// time, a thread the same word of each.
  TSL_HOST_DEVICE void copy_rows(Step& step, int stage) {
    const PartTap from = memory_.taps[step.tap];
    const GemmPart<S>& part = gemm_.parts[from.part];
    const uint32_t groups = memory_.groups_with(from.tap);
    block_.warps([&](auto warp) {
      warp.each([&](auto lane) {
        const int word = lane.index % kRowWords;
        const int channel = step.channels * In::kBlock + word * In::kWord;
        const bool is_channel = channel < part.in_channels;
        TSL_UNROLL
        for (int i = 0; i < (kGroups + Shape::kWarps - 1) / Shape::kWarps; ++i) {
          const int group = i * Shape::kWarps + warp.index;
          if (!(groups >> group & 1u)) continue;
          const int row = group * kFragmentRows + lane.index / kRowWords;
          const int32_t in_row = memory_.in_row[from.tap][row];
          const bool is_there = in_row != kNoRow && is_channel;
          const int64_t at = is_there ? int64_t{in_row} * part.in_channels + channel : 0;
          lane.copy(memory_.rows[stage].at(row, word), part.feats + at, is_there);
        }
      });
    });
    advance(step);
  }

  /// The weights of a step, for each warp those of its channels.
  TSL_HOST_DEVICE void fetch(int word, const Step& step, Registers<Weights>& weights) {
    const PartTap from = memory_.taps[step.tap];
    const GemmPart<S>& part = gemm_.parts[from.part];
    const int64_t tap = from.tap == kOwnRow ? 0 : word * kMaskBits + from.tap;
    const FragmentLayout layout = FragmentLayout::of<S>(part.in_channels, gemm_.out.channels);
    block_.warps([&](auto warp) {
      if (!has_channels(warp)) return;
      const int output = channel_of(warp) / kOutFragment;
      warp.each([&](auto lane) {
        TSL_UNROLL
        for (int in = 0; in < kBlockFragments; ++in) {
          const int64_t at = layout.at(tap, step.channels * kBlockFragments + in, output);
          TSL_UNROLL
          for (int out = 0; out < kBlockFragments; ++out) {
            lane(weights).v[in][out] = part.weight[at + out * kWarpLanes + lane.index];
          }
        }
      });
    });
  }

  template <class Warp>
  TSL_HOST_DEVICE void multiply_groups(const Warp& warp, Registers<Weights>& weights, int tap,
                                       Panel<Shape::kRows>& rows) {
    const int first = row_of(warp);
    const uint32_t present = memory_.groups_with(tap) >> (first / kFragmentRows);
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
          const int32_t out_row = memory_.in_row[kOwnRow][row_of(warp) + first + row];
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
  TileTaps<S, Shape, Block> taps_;
  int first_channel_;
  Registers<Sums> sums_;
};

}  // namespace tsl
