// SPDX-License-Identifier: MIT
// Part of simd/body.h: bfloat16 multiplied as such, where the processor can: on AMX tiles, or two
// channels at a time with AVX512_BF16. Elsewhere it is widened to float32 like float16.
#pragma once

#include "cpu/simd/multiply.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

#ifdef __AVX512BF16__
/// Two input channels at a time: bfloat16 products summed in float32.
struct PairMath {
  typedef uint32_t Row __attribute__((aligned(alignof(BFloat16)), may_alias));  // two bfloat16
  using Sum = float;
  static __m512bh weights(const Row* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static void add(Vector<float>& sum, uint32_t value, __m512bh w) {
    sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum,
                                          (__m512bh)_mm512_set1_epi32(static_cast<int>(value)), w);
  }
};
#endif

#if defined(__AMX_BF16__)
constexpr WeightFormat kBf16Weights{2, 16};
using Bf16Math = PairMath;

/// Tile configuration of a scope: eight tiles of 16 rows of 64 bytes. Another library (oneDNN) may
/// count on the thread's configuration, so it is put back.
class TileScope {
 public:
  TileScope() {
    _tile_storeconfig(saved_);
    alignas(64) uint8_t config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
      config[16 + 2 * tile] = 64;  // bytes of a row
      config[48 + tile] = 16;      // rows
    }
    _tile_loadconfig(config);
  }
  ~TileScope() {
    if (saved_[0] == 0) {
      _tile_release();
    } else {
      _tile_loadconfig(saved_);
    }
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  alignas(64) uint8_t saved_[64];
};

/// ... or, for bfloat16 with AMX, multiplied in tiles of 32 pairs and 32 columns.
void multiply_tap(const TapPairs<PairMath>& pairs, const BFloat16* feats, int cin,
                  const Panels& panels, const SumRows<float>& sums, float* block) {
  constexpr int kTile = 16;
  constexpr int kPairs = 2 * kTile;
  const TileScope scope;
  float* const product = block;  // (kPairs, 2 * kTile)
  uint32_t* const rows = reinterpret_cast<uint32_t*>(block + kPairs * 2 * kTile);
  const int row_bytes = pairs.length * static_cast<int>(sizeof(uint32_t));
  const int64_t stride = pairs.feats_stride;
  for (int64_t first = 0; first < pairs.count; first += kPairs) {
    const int count = static_cast<int>(pairs.count - first < kPairs ? pairs.count - first : kPairs);
    for (int p = 0; p < count; ++p) {
      BFloat16* const to = reinterpret_cast<BFloat16*>(rows + p * pairs.length);
      const BFloat16* const from = feats + pairs.in_index[first + p] * stride;
      memcpy(to, from, static_cast<size_t>(cin) * sizeof(BFloat16));
      memset(to + cin, 0, static_cast<size_t>(2 * pairs.length - cin) * sizeof(BFloat16));
      if (first + kPairs + p < pairs.count) {
        prefetch_row(feats + pairs.in_index[first + kPairs + p] * stride, cin * 2);
      }
    }
    const bool two_rows = count > kTile;
    for (int panel = 0; panel < panels.count; ++panel) {
      const int width = panels.width(panel);
      const int column = panels.first(panel) * panels.lanes;
      const uint32_t* const weight = pairs.weight + static_cast<int64_t>(column) * pairs.length;
      const int weight_bytes = width * kCacheLine;
      for (int v = 0; v < width; v += 2) {
        const bool two_columns = v + 1 < width;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int i = 0; i < pairs.length; i += kTile) {
          const uint32_t* const w = weight + (i * width + v) * kTile;
          _tile_loadd(4, rows + i, row_bytes);
          _tile_loadd(6, w, weight_bytes);
          _tile_dpbf16ps(0, 4, 6);
          if (two_columns) {
            _tile_loadd(7, w + kTile, weight_bytes);
            _tile_dpbf16ps(1, 4, 7);
          }
          if (two_rows) {
            _tile_loadd(5, rows + kTile * pairs.length + i, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if (two_columns) _tile_dpbf16ps(3, 5, 7);
          }
        }
        constexpr int kProductBytes = 2 * kCacheLine;
        _tile_stored(0, product, kProductBytes);
        _tile_stored(1, product + kTile, kProductBytes);
        _tile_stored(2, product + kTile * 2 * kTile, kProductBytes);
        _tile_stored(3, product + kTile * 2 * kTile + kTile, kProductBytes);
        const int at = column + v * kTile;
        for (int p = 0; p < count; ++p) {
          float* const y = sums.row(pairs.out_index[first + p]) + at;
          const float* const before = pairs.start ? pairs.start + at : y;
          const float* const add = product + p * 2 * kTile;
          store<float>(y, load<float>(before) + load<float>(add));
          if (two_columns) {
            store<float>(y + kTile, load<float>(before + kTile) + load<float>(add + kTile));
          }
        }
      }
    }
  }
}
#elif defined(__AVX512BF16__)
constexpr WeightFormat kBf16Weights{2, 1};
using Bf16Math = PairMath;

/// ... or, for bfloat16 where the processor multiplies it, two channels at a time.
void multiply_tap(const TapPairs<PairMath>& pairs, const BFloat16* feats, int cin,
                  const Panels& panels, const SumRows<float>& sums, float* block) {
  const int64_t stride = pairs.feats_stride;
  if (cin % 2 == 0 && stride % 2 == 0) {
    TapPairs<PairMath> in_place = pairs;
    in_place.feats = reinterpret_cast<const uint32_t*>(feats);
    in_place.feats_stride = stride / 2;
    multiply_pairs(in_place, panels, sums);
    return;
  }
  multiply_copied(pairs, panels, sums, reinterpret_cast<uint32_t*>(block),
                  [&](int32_t row, uint32_t* to) {
                    to[pairs.length - 1] = 0;
                    memcpy(to, feats + row * stride, static_cast<size_t>(cin) * sizeof(BFloat16));
                  });
}
#else
constexpr WeightFormat kBf16Weights{1, 1};
using Bf16Math = PlainMath<float>;
#endif

/// How rows of S are multiplied into sums of A.
template <class S, class A>
struct MathOf {
  using type = PlainMath<A>;
  static constexpr WeightFormat kFormat{1, 1};
};
template <>
struct MathOf<BFloat16, float> {
  using type = Bf16Math;
  static constexpr WeightFormat kFormat = kBf16Weights;
};

}  // namespace
}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
