// SPDX-License-Identifier: MIT
// The loops that are compiled once per instruction set, and the table through which they are
// called.
//
// simd/body.h holds their text. Each simd/<isa>.cpp compiles it with its own compiler flags into
// its own namespace and exports one SimdKernels table; simd/dispatch.cpp picks the best that the
// running processor can execute. The plain specification is kernels/sparse_conv.h.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/hash_table.h"
#include "core/neighbor_table.h"

namespace tsl::cpu {

/// Pair lists of a kernel map with their cut into output tiles.
struct PairTiles {
  const int32_t* in_index;
  const int32_t* out_index;
  const int64_t* tile_ptr;  // (num_tiles + 1, kernel_volume)
  int kernel_volume;
  int64_t tile_rows;
  int64_t num_out;

  int64_t num_tiles() const { return (num_out + tile_rows - 1) / tile_rows; }
  int64_t first_row(int64_t tile) const { return tile * tile_rows; }
  int64_t last_row(int64_t tile) const {
    const int64_t end = (tile + 1) * tile_rows;
    return end < num_out ? end : num_out;
  }
  int64_t first_pair(int64_t tile, int tap) const { return tile_ptr[tile * kernel_volume + tap]; }
};

/// How the output channels of a group are cut into register panels: `vectors` in all, the first
/// `wide` panels one vector wider than the others.
struct Panels {
  int lanes;
  int vectors;
  int count;

  Panels(int channels, int lanes, int max_vectors)
      : lanes(lanes),
        vectors((channels + lanes - 1) / lanes),
        count((vectors + max_vectors - 1) / max_vectors) {}

  int width(int panel) const { return vectors / count + (panel < vectors % count ? 1 : 0); }
  int first(int panel) const {
    const int wide = vectors % count;
    return panel * (vectors / count) + (panel < wide ? panel : wide);
  }
  int padded() const { return vectors * lanes; }
};

/// One sparse convolution. S is the type in memory, A the type of the sums.
/// Channel group g reads columns [g * cin, (g + 1) * cin) and writes [g * cout, (g + 1) * cout).
template <class S, class A>
struct ConvTask {
  PairTiles pairs;
  const S* feats;      // (num_in, groups * cin)
  S* out;              // (num_out, groups * cout)
  const S* residual;   // (num_out, groups * cout) or null: added before the activation
  const void* weight;  // packed, see WeightFormat: (kernel_volume, groups, rows, padded cout)
  const A* bias;       // (groups, padded cout), zeros where there is none
  int groups;
  int cin;
  int cout;
  int full_tap;  // a tap that feeds every output row (the centre of a submanifold kernel), or -1
  bool relu;
};

/// dW[tap, ci, g * cout + co] = sum over pairs of x[in, g * cin + ci] * dy[out, g * cout + co].
template <class S, class A>
struct WeightGradTask {
  PairTiles pairs;
  const S* feats;     // (num_in, groups * cin)
  const S* grad_out;  // (num_out, groups * cout)
  A* grad_weight;     // (kernel_volume, cin, groups * padded cout), zeroed by the caller
  int groups;
  int cin;
  int cout;
};

/// A slice of the weight gradient that one worker owns: input channels [begin, end) of one tap.
struct WeightGradPart {
  int tap;
  int group;
  int begin;
  int end;
};

/// out[o, c] = bias[c] + sum over pairs of weight[tap, c] * x[in, c]; weight null: plain sums.
template <class S>
struct ChannelwiseTask {
  PairTiles pairs;
  const S* feats;
  S* out;
  const S* weight;  // (kernel_volume, channels) or null
  const S* bias;    // (channels,) or null
  int channels;
};

/// Pairs whose rows are widened or padded together before they are multiplied.
constexpr int kBlockPairs = 48;
constexpr int kMaxRowPadding = 64;
/// Pairs summed in registers before they are added to the weight gradient: bounds the rounding
/// error of long sums and keeps both sides of the product in the first-level cache.
constexpr int kGradPairs = 64;

/// True when sums can live in the output itself, without a padded or widened copy.
template <class S, class A>
bool accumulates_in_place(const ConvTask<S, A>& task, int lanes) {
  return sizeof(S) == sizeof(A) && task.cout % lanes == 0;
}

/// How kernels want a tap's weight: panel after panel, each (rows, lanes * width).
struct WeightFormat {
  int channels_per_row;  // 1: a row is one input channel, in A
                         // 2: two channels beside each other in every element, in bfloat16
  int row_multiple;      // rows are padded with zeros to a multiple of this

  int rows(int cin) const {
    const int unpadded = (cin + channels_per_row - 1) / channels_per_row;
    return (unpadded + row_multiple - 1) / row_multiple * row_multiple;
  }
};

template <class S, class A>
struct ConvKernels {
  int lanes;        // A's per vector
  int max_vectors;  // widest register panel
  WeightFormat weight_format;
  /// `scratch`: conv_scratch() A's, private to the calling thread.
  void (*conv_tile)(const ConvTask<S, A>& task, int64_t tile, A* scratch);
  /// Adds tiles [first, last) of one part; `scratch`: weight_grad_scratch() A's.
  void (*weight_grad)(const WeightGradTask<S, A>& task, const WeightGradPart& part, int64_t first,
                      int64_t last, A* scratch);

  Panels panels(int channels) const { return Panels(channels, lanes, max_vectors); }

  /// The sums of a tile (unless they live in the output), then a block of gathered rows.
  int64_t conv_scratch(const ConvTask<S, A>& task) const {
    const int64_t sums = task.pairs.tile_rows * panels(task.cout).padded();
    const int64_t block = int64_t{kBlockPairs} * (task.cin + kMaxRowPadding);
    return (accumulates_in_place(task, lanes) ? 0 : sums) + block;
  }

  /// Copies of kGradPairs rows of either side.
  int64_t weight_grad_scratch(int cin, int cout) const {
    return int64_t{kGradPairs} * (cin + panels(cout).padded());
  }
};

/// Up to 32 keys on their way into a hash table.
struct Probes {
  uint64_t keys[kMaskBits];
  uint64_t homes[kMaskBits];
};

struct SimdKernels {
  const char* name;
  /// Which of the keys window_key + steps[0..count), none of them kEmptyKey, pass the table's
  /// filter. Reads steps[0..kMaskBits).
  uint32_t (*filter_keys)(const HashTableView& table, uint64_t window_key, const uint64_t* steps,
                          int count, Probes* probes);
  ConvKernels<float, float> f32;
  ConvKernels<double, double> f64;
  ConvKernels<BFloat16, float> bf16;
  ConvKernels<Float16, float> f16;
  void (*channelwise_f32)(const ChannelwiseTask<float>& task, int64_t tile);
  void (*channelwise_f64)(const ChannelwiseTask<double>& task, int64_t tile);
};

/// All tables that this build holds and this processor can run, best first; ends with null.
const SimdKernels* const* available_simd_kernels();
/// The best of them.
inline const SimdKernels& simd_kernels() { return *available_simd_kernels()[0]; }

}  // namespace tsl::cpu
