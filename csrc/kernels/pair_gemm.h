// SPDX-License-Identifier: MIT
// The gradient of sparse convolution by its weight, on tensor cores:
//
//   grad_weight[tap] = sum over the pairs (i, o) of the tap: outer product of x[i] and dy[o]
//
// The pairs of each tap are cut into parts of kPartPairs. A block sums one part for a tile of input
// channels and output channels; then the parts of a tap are added from the first to the last. So
// every number is summed in an order that depends on the pairs alone.
//
// Memory: a partial sum per part, at most kernel_volume + pairs / kPartPairs of them, 4 bytes a
// number. Shared memory: 128 bytes a pair of a stage and 32 channels, 8 bytes a pair of a part.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/refuse.h"
#include "kernels/warp_block.h"
#include "kernels/fragments.h"

namespace tsl {

constexpr int kPartPairs = 2048;
constexpr int kStepPairs = 32;  // multiplied at once
constexpr int kPairStages = 4;
constexpr int kPairBlock = 32;  // channels of either side that a warp sums

/// Parts of the pairs of each tap, tap after tap.
struct PairParts {
  const int64_t* tap_ptr;  // (kernel_volume + 1,)
  int kernel_volume;

  TSL_HOST_DEVICE static int64_t most(int64_t num_pairs, int kernel_volume) {
    return kernel_volume + num_pairs / kPartPairs;
  }
  TSL_HOST_DEVICE int64_t of_tap(int tap) const {
    return (tap_ptr[tap + 1] - tap_ptr[tap] + kPartPairs - 1) / kPartPairs;
  }
  TSL_HOST_DEVICE int64_t first_of_tap(int tap) const {
    int64_t first = 0;
    for (int before = 0; before < tap; ++before) first += of_tap(before);
    return first;
  }

  struct Range {
    int64_t begin, end;
  };

  /// The pairs of a part; none if there are fewer parts.
  TSL_HOST_DEVICE Range pairs_of(int64_t part) const {
    for (int tap = 0; tap < kernel_volume; part -= of_tap(tap++)) {
      if (part >= of_tap(tap)) continue;
      const int64_t begin = tap_ptr[tap] + part * kPartPairs;
      const int64_t end = begin + kPartPairs;
      return {begin, end < tap_ptr[tap + 1] ? end : tap_ptr[tap + 1]};
    }
    return {0, 0};
  }
};

/// S is a 16-bit type: of others the tensor cores cannot read columns.
template <class S>
struct PairGemm {
  PairParts parts;
  const int32_t* in_index;   // (num_pairs,)
  const int32_t* out_index;  // (num_pairs,)
  int64_t num_pairs;
  const S* feats;  // (num_in, in_channels), 16-byte aligned
  int64_t num_in;
  const S* grad_out;  // (num_out, out_channels), 16-byte aligned
  int64_t num_out;
  int in_channels;   // a multiple of 8
  int out_channels;  // a multiple of 8
  float* partial;    // (parts, in_width, out_width)
  int in_width;      // channels, filled up to whole tiles
  int out_width;
};

/// Warps of a tile along the input channels and along the output channels, 32 of each.
template <int in_warps, int out_warps>
struct PairTileShape {
  static constexpr int kWarps = in_warps * out_warps;
  static constexpr int kThreads = kWarpLanes * kWarps;
  static constexpr int kInPanels = in_warps;
  static constexpr int kOutPanels = out_warps;
  static constexpr int kIn = kPairBlock * in_warps;
  static constexpr int kOut = kPairBlock * out_warps;

  static constexpr int in_tiles(int channels) { return (channels + kIn - 1) / kIn; }
  static constexpr int out_tiles(int channels) { return (channels + kOut - 1) / kOut; }
};

template <class Shape>
struct PairTileMemory {
  static constexpr int kPanels = Shape::kInPanels + Shape::kOutPanels;

  Panel<kStepPairs> rows[kPairStages][kPanels];  // of the features, then of the gradient
  int32_t in_row[kPartPairs];
  int32_t out_row[kPartPairs];
};

template <class S, class Shape, class Block>
class PairGemmTile {
 public:
  TSL_HOST_DEVICE PairGemmTile(Block& block, const PairGemm<S>& gemm, int64_t part, int in_tile,
                               int out_tile)
      : block_(block),
        gemm_(gemm),
        memory_(block.template shared<PairTileMemory<Shape>>()),
        part_(part),
        pairs_(gemm.parts.pairs_of(part)),
        first_in_(in_tile * Shape::kIn),
        first_out_(out_tile * Shape::kOut) {}

  TSL_HOST_DEVICE void run() {
    if (pairs_.begin == pairs_.end) return;
    if (pairs_.begin < 0 || pairs_.end > gemm_.num_pairs) {
      refuse_row("pair_gemm: tap_ptr must point into the pairs", part_, "Pass arrays of one map.");
    }
    block_.warps([&](auto warp) {
      warp.each([&](auto lane) {
        lane(sums_) = Sums{};
        read_pairs(lane);
      });
    });
    block_.sync();
    const int steps = (count() + kStepPairs - 1) / kStepPairs;
    for (int step = 0; step < kPairStages - 1; ++step) {
      if (step < steps) copy_rows(step);
      block_.commit();
    }
    for (int step = 0; step < steps; ++step) {
      block_.template wait<kPairStages - 2>();
      block_.sync();  // the rows of this step are there, and nobody reads those of the last
      if (step + kPairStages - 1 < steps) copy_rows(step + kPairStages - 1);
      block_.commit();
      block_.warps([&](auto warp) { multiply(warp, memory_.rows[step % kPairStages]); });
    }
    block_.warps([&](auto warp) {
      warp.each([&](auto lane) { write(lane, in_panel(warp), out_panel(warp)); });
    });
  }

 private:
  template <class T>
  using Registers = typename Block::template Registers<T>;
  using Rows = Panel<kStepPairs>[PairTileMemory<Shape>::kPanels];

  static constexpr int kGroups = kPairBlock / kFragmentRows;  // columns of a product

  struct Sums {
    float v[kBlockFragments][kGroups][4];
  };
  struct Operands {
    Words4 in[kBlockFragments];   // input channels x pairs
    Words4 out[kBlockFragments];  // pairs x 16 output channels each
  };

  TSL_HOST_DEVICE int count() const { return static_cast<int>(pairs_.end - pairs_.begin); }
  template <class Warp>
  TSL_HOST_DEVICE static int in_panel(const Warp& warp) {
    return warp.index % Shape::kInPanels;
  }
  template <class Warp>
  TSL_HOST_DEVICE static int out_panel(const Warp& warp) {
    return warp.index / Shape::kInPanels;
  }

  template <class Lane>
  TSL_HOST_DEVICE void read_pairs(const Lane& lane) const {
    for (int i = lane.thread; i < count(); i += Shape::kThreads) {
      const int64_t pair = pairs_.begin + i;
      memory_.in_row[i] = checked(gemm_.in_index, pair, gemm_.num_in);
      memory_.out_row[i] = checked(gemm_.out_index, pair, gemm_.num_out);
    }
  }

  TSL_HOST_DEVICE static int32_t checked(const int32_t* index, int64_t pair, int64_t count) {
    const int32_t row = index[pair];
    if (row < 0 || row >= count) {
      refuse_row("pair_gemm: in_index and out_index must be rows that exist", pair,
                 "Pass a kernel map with its own features.");
    }
    return row;
  }

  /// Starts copying the rows of a step; behind the last pair they are zeros.
  TSL_HOST_DEVICE void copy_rows(int step) {
    constexpr int kPanelWords = kStepPairs * kRowWords;
    Rows& rows = memory_.rows[step % kPairStages];
    block_.warps([&](auto warp) {
      warp.each([&](auto lane) {
        for (int i = lane.thread; i < PairTileMemory<Shape>::kPanels * kPanelWords;
             i += Shape::kThreads) {
          const int panel = i / kPanelWords;
          const int row = i / kRowWords % kStepPairs;
          const int word = i % kRowWords;
          const bool is_in = panel < Shape::kInPanels;
          const int block = is_in ? panel : panel - Shape::kInPanels;
          const int channel =
              (is_in ? first_in_ : first_out_) + block * kPairBlock + word * Operand<S>::kWord;
          const int channels = is_in ? gemm_.in_channels : gemm_.out_channels;
          const int pair = step * kStepPairs + row;
          const bool is_there = pair < count() && channel < channels;
          const S* from = is_in ? gemm_.feats : gemm_.grad_out;
          if (is_there) {
            const int32_t index = is_in ? memory_.in_row[pair] : memory_.out_row[pair];
            from += int64_t{index} * channels + channel;
          }
          lane.copy(rows[panel].at(row, word), from, is_there);
        }
      });
    });
  }

  template <class Warp>
  TSL_HOST_DEVICE void multiply(const Warp& warp, Rows& rows) {
    Panel<kStepPairs>& in = rows[in_panel(warp)];
    Panel<kStepPairs>& out = rows[Shape::kInPanels + out_panel(warp)];
    TSL_UNROLL
    for (int first = 0; first < kStepPairs; first += Operand<S>::kFragment) {
      Registers<Operands> operands;
      TSL_UNROLL
      for (int f = 0; f < kBlockFragments; ++f) {
        // Matrices of 8 pairs and 8 channels, in the order of the words of an operand: of the left
        // one channels change first, of the right one pairs.
        warp.load_transposed([&](auto lane) { return lane(operands).in[f].w; },
                             [&](auto lane) {
                               const int matrix = lane.index / 8;
                               const int row = first + matrix / 2 * 8 + lane.index % 8;
                               return in.at(row, 2 * f + matrix % 2);
                             });
        warp.load_transposed([&](auto lane) { return lane(operands).out[f].w; },
                             [&](auto lane) {
                               const int matrix = lane.index / 8;
                               const int row = first + matrix % 2 * 8 + lane.index % 8;
                               return out.at(row, 2 * f + matrix / 2);
                             });
      }
      TSL_UNROLL
      for (int f = 0; f < kBlockFragments; ++f) {
        TSL_UNROLL
        for (int group = 0; group < kGroups; ++group) {
          warp.template multiply<S>(
              [&](auto lane) { return lane(sums_).v[f][group]; },
              [&](auto lane) { return lane(operands).in[f].w; },
              [&](auto lane) { return lane(operands).out[group / 2].w + 2 * (group % 2); });
        }
      }
    }
  }

  template <class Lane>
  TSL_HOST_DEVICE void write(const Lane& lane, int in_panel, int out_panel) {
    TSL_UNROLL
    for (int f = 0; f < kBlockFragments; ++f) {
      TSL_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        TSL_UNROLL
        for (int i = 0; i < 4; ++i) {
          const Place place = place_in_d(lane.index, i);
          const int in = first_in_ + in_panel * kPairBlock + f * kOutFragment + place.row;
          const int out =
              first_out_ + out_panel * kPairBlock + group * kFragmentRows + place.column;
          gemm_.partial[(part_ * gemm_.in_width + in) * gemm_.out_width + out] =
              lane(sums_).v[f][group][i];
        }
      }
    }
  }

  Block& block_;
  const PairGemm<S>& gemm_;
  PairTileMemory<Shape>& memory_;
  int64_t part_;
  PairParts::Range pairs_;
  int first_in_;
  int first_out_;
  Registers<Sums> sums_;
};

/// Adds the parts of each tap; item i is a number of the gradient.
struct AddParts {
  PairParts parts;
  const float* partial;  // (parts, in_width, out_width)
  int in_width;
  int out_width;
  int in_channels;  // of the gradient
  int out_channels;
  float* grad_weight;  // (kernel_volume, in_channels, out_channels)

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t out = i % out_channels;
    const int64_t in = i / out_channels % in_channels;
    const int tap = static_cast<int>(i / out_channels / in_channels);
    if (parts.tap_ptr[tap] < 0 || parts.tap_ptr[tap + 1] < parts.tap_ptr[tap]) {
      refuse_row("pair_gemm: tap_ptr must ascend", tap, "Pass arrays of one map.");
    }
    const int64_t part = parts.first_of_tap(tap);
    const float* from = partial + (part * in_width + in) * out_width + out;
    float sum = 0.0f;
    for (int64_t left = parts.of_tap(tap); left > 0;
         --left, from += int64_t{in_width} * out_width) {
      sum += *from;
    }
    grad_weight[i] = sum;
  }
};

}  // namespace tsl
