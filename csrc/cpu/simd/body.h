// SPDX-License-Identifier: MIT
// The text behind SimdKernels. Included once by each simd/<isa>.cpp, which defines
//   TSL_SIMD_NAMESPACE, TSL_SIMD_BYTES (vector width), TSL_SIMD_REGISTERS (vector registers).
// Everything here has internal linkage, so code compiled for one instruction set can never be
// merged by the linker with code compiled for another.
//
// Convolution of one output tile: for each tap, its pairs (input row, output row) are taken in small
// groups; a group's sums sit in registers while the input channels are walked once:
//     sum[r][v] += x[row r][ci] * weight[ci][v]        r: up to 12 rows, v: up to 4 vectors
// Rows are read where they lie; only weights are packed. An output row receives its taps in a fixed
// order (the full tap, then ascending) and its input channels in order, so its bits depend neither
// on the grouping nor on the tile nor on the thread.

#include "core/dtype.h"
#include "core/hash_table.h"
#include "cpu/simd/kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(TSL_SIMD_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = TSL_SIMD_BYTES / static_cast<int>(sizeof(T));

template <class T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T>
void store(T* to, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

// Register tiles. sums + one row of weights + one broadcast must fit into the register file.
constexpr int kMaxVectors = TSL_SIMD_REGISTERS >= 32 ? 4 : 3;
constexpr int kMaxRows = 12;
constexpr int tile_rows_for(int vectors) {
  const int sums = TSL_SIMD_REGISTERS >= 32 ? 24 : 12;
  return sums / vectors < kMaxRows ? sums / vectors : kMaxRows;
}

/// One step of a sum: `Row` is an element of a gathered row, `value * w` its product with a vector of
/// weights.
template <class T>
struct PlainMath {
  using Row = T;
  using Sum = T;
  static Vector<T> weights(const T* w) { return load<T>(w); }
  static void add(Vector<T>& sum, T value, Vector<T> w) { sum += value * w; }
};

#ifdef __AVX512BF16__
/// Two input channels at a time: bfloat16 products summed in float32.
struct PairMath {
  using Row = uint32_t;
  using Sum = float;
  static __m512bh weights(const uint32_t* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static void add(Vector<float>& sum, uint32_t value, __m512bh w) {
    sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum,
                                          (__m512bh)_mm512_set1_epi32(static_cast<int>(value)), w);
  }
};
#endif

/// Where the sums of a tile are collected.
template <class A>
struct SumRows {
  A* base;  // of row `first_row`
  int64_t stride;
  int64_t first_row;
  A* row(int64_t out_row) const { return base + (out_row - first_row) * stride; }
};

/// Consecutive pairs of one tap and one register panel.
template <class Math>
struct PairRun {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  const int32_t* in_index;
  const int32_t* out_index;
  const Row* feats;
  int64_t feats_stride;
  int length;         // of a row
  SumRows<Sum> sums;  // shifted to the panel's column
  const Row* weight;  // (length, vectors * lanes)
  const Sum* start;   // what the sums start from, or null: from what is there
};

constexpr int kCacheLine = 64;

/// sums[out] (+)= feats[in] * weight for `groups` groups of kRows pairs. While a group is computed,
/// the rows of the next one are asked for, a line of each at a time.
template <class Math, int kRows, int kVectors>
void multiply(const PairRun<Math>& run, int64_t groups) {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  constexpr int kLineValues = kCacheLine / static_cast<int>(sizeof(Row));
  constexpr int kStep = kLanes<Sum>;
  const Row* x[kRows];
  Sum* y[kRows];
  const auto locate = [&](int64_t group) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      x[r] = run.feats + run.in_index[group * kRows + r] * run.feats_stride;
      y[r] = run.sums.row(run.out_index[group * kRows + r]);
    }
  };
  locate(0);
  for (int64_t group = 0; group < groups; ++group) {
    Vector<Sum> sum[kRows][kVectors];
    Sum* to[kRows];
    const Row* row[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      to[r] = y[r];
      row[r] = x[r];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = load<Sum>((run.start ? run.start : y[r]) + v * kStep);
      }
    }
    locate(group + 1 < groups ? group + 1 : group);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(y[r] + v * kStep, 1);
    }
    const Row* w_row = run.weight;
    for (int begin = 0; begin < run.length; begin += kLineValues) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) __builtin_prefetch(x[r] + begin);
      const int end = begin + kLineValues < run.length ? begin + kLineValues : run.length;
#pragma GCC unroll 2
      for (int i = begin; i < end; ++i) {
        decltype(Math::weights(w_row)) w[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = Math::weights(w_row + v * kStep);
        w_row += kVectors * kStep;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Row value = row[r][i];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) Math::add(sum[r][v], value, w[v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store<Sum>(to[r] + v * kStep, sum[r][v]);
    }
  }
}

/// dw[r][v] += sum over pairs p of x[p][r] * g[p][v].
template <class T, int kRows, int kVectors>
void outer_product(const T* const* x, const T* const* g, int pairs, T* dw, int64_t dw_stride) {
  Vector<T> sum[kRows][kVectors] = {};
  for (int p = 0; p < pairs; ++p) {
    const T* const xp = x[p];
    const T* const gp = g[p];
    Vector<T> w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = load<T>(gp + v * kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T value = xp[r];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += value * w[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* const to = dw + r * dw_stride + v * kLanes<T>;
      store<T>(to, load<T>(to) + sum[r][v]);
    }
  }
}

template <class Math>
using Multiply = void (*)(const PairRun<Math>&, int64_t groups);
template <class T>
using OuterProduct = void (*)(const T* const*, const T* const*, int, T*, int64_t);

/// One function per panel width and number of rows.
template <class Math>
struct MultiplyTable {
  Multiply<Math> at[kMaxVectors + 1][kMaxRows + 1] = {};

  constexpr MultiplyTable() { add<kMaxVectors, tile_rows_for(kMaxVectors)>(); }

  template <int kVectors, int kRows>
  constexpr void add() {
    at[kVectors][kRows] = multiply<Math, kRows, kVectors>;
    if constexpr (kRows > 1) {
      add<kVectors, kRows - 1>();
    } else if constexpr (kVectors > 1) {
      add<kVectors - 1, tile_rows_for(kVectors - 1)>();
    }
  }
};

template <class T>
struct OuterProductTable {
  OuterProduct<T> at[kMaxVectors + 1][kMaxRows + 1] = {};

  constexpr OuterProductTable() { add<kMaxVectors, tile_rows_for(kMaxVectors)>(); }

  template <int kVectors, int kRows>
  constexpr void add() {
    at[kVectors][kRows] = outer_product<T, kRows, kVectors>;
    if constexpr (kRows > 1) {
      add<kVectors, kRows - 1>();
    } else if constexpr (kVectors > 1) {
      add<kVectors - 1, tile_rows_for(kVectors - 1)>();
    }
  }
};

template <class Math>
constexpr MultiplyTable<Math> kMultiply{};
template <class T>
constexpr OuterProductTable<T> kOuterProduct{};

void prefetch_row(const void* row, int64_t bytes) {
  const char* const line = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i);
}

void widen(const float* from, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
}
void widen(const double* from, double* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
}
void widen(const BFloat16* from, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
void widen(const Float16* from, float* to, int count) {
  int i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
#elif defined(__aarch64__)
  typedef __fp16 Half4 __attribute__((vector_size(8), aligned(2), may_alias));
  typedef float Float4 __attribute__((vector_size(16), aligned(4), may_alias));
  for (; i + 4 <= count; i += 4) {
    *reinterpret_cast<Float4*>(to + i) =
        __builtin_convertvector(*reinterpret_cast<const Half4*>(from + i), Float4);
  }
#endif
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

void narrow(float from, float* to) { *to = from; }
void narrow(double from, double* to) { *to = from; }
void narrow(float from, BFloat16* to) { *to = to_bfloat16(from); }
void narrow(float from, Float16* to) { *to = to_float16(from); }

float as_sum(float v) { return v; }
double as_sum(double v) { return v; }
float as_sum(BFloat16 v) { return to_float(v); }
float as_sum(Float16 v) { return to_float(v); }

/// Even cut of `count` items into groups of at most `limit`: sizes differ by at most one.
struct EvenGroups {
  int64_t count;
  int64_t groups;
  EvenGroups(int64_t count, int64_t limit) : count(count), groups((count + limit - 1) / limit) {}
  int64_t begin(int64_t group) const { return count * group / groups; }
};

/// All pairs of one tap and channel group of a tile.
template <class Math>
struct TapPairs {
  using Row = typename Math::Row;
  using Sum = typename Math::Sum;
  const int32_t* in_index;
  const int32_t* out_index;
  int64_t count;
  const Row* feats;
  int64_t feats_stride;
  int length;         // of a row
  const Row* weight;  // panels of (length, lanes * width)
  const Sum* start;
};

/// Rows read in place: full groups of rows, then one or two smaller ones of equal size.
template <class Math>
void multiply_pairs(const TapPairs<Math>& pairs, const Panels& panels,
                    const SumRows<typename Math::Sum>& sums) {
  for (int panel = 0; panel < panels.count; ++panel) {
    const int vectors = panels.width(panel);
    const int column = panels.first(panel) * panels.lanes;
    PairRun<Math> run{pairs.in_index,
                      pairs.out_index,
                      pairs.feats,
                      pairs.feats_stride,
                      pairs.length,
                      {sums.base + column, sums.stride, sums.first_row},
                      pairs.weight + static_cast<int64_t>(column) * pairs.length,
                      pairs.start ? pairs.start + column : nullptr};
    const auto take = [&](int rows, int64_t groups) {
      kMultiply<Math>.at[vectors][rows](run, groups);
      run.in_index += rows * groups;
      run.out_index += rows * groups;
    };
    const int full = tile_rows_for(vectors);
    const int64_t wanted = pairs.count % full == 0 ? pairs.count / full : pairs.count / full - 1;
    const int64_t full_groups = wanted > 0 ? wanted : 0;
    if (full_groups > 0) take(full, full_groups);
    const EvenGroups rest(pairs.count - full_groups * full, full);
    for (int64_t group = 0; group < rest.groups; ++group) {
      take(static_cast<int>(rest.begin(group + 1) - rest.begin(group)), 1);
    }
  }
}

constexpr struct BlockIndex {
  int32_t at[kBlockPairs] = {};
  constexpr BlockIndex() {
    for (int i = 0; i < kBlockPairs; ++i) at[i] = i;
  }
} kBlockIndex;

/// Rows that cannot be read in place: copy(pair, row) brings a block of them into `block`, which then
/// serves all panels.
template <class Math, class Copy>
void multiply_copied(TapPairs<Math> pairs, const Panels& panels,
                     const SumRows<typename Math::Sum>& sums, typename Math::Row* block,
                     const Copy& copy) {
  const int32_t* const in_index = pairs.in_index;
  const int64_t all = pairs.count;
  pairs.feats = block;
  pairs.feats_stride = pairs.length;
  pairs.in_index = kBlockIndex.at;
  for (int64_t first = 0; first < all; first += kBlockPairs) {
    pairs.count = all - first < kBlockPairs ? all - first : kBlockPairs;
    for (int64_t p = 0; p < pairs.count; ++p) {
      copy(in_index[first + p], block + p * pairs.length);
    }
    multiply_pairs(pairs, panels, sums);
    pairs.out_index += pairs.count;
  }
}

/// One tap and channel group of a tile: float32 and float64 rows where they lie, half types widened...
template <class S, class A>
void multiply_tap(const TapPairs<PlainMath<A>>& pairs, const S* feats, int cin, const Panels& panels,
                  const SumRows<A>& sums, A* block) {
  if constexpr (sizeof(S) == sizeof(A)) {
    multiply_pairs(pairs, panels, sums);
  } else {
    const int64_t stride = pairs.feats_stride;
    multiply_copied(pairs, panels, sums, block,
                    [&](int32_t row, A* to) { widen(feats + row * stride, to, cin); });
  }
}

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
void multiply_tap(const TapPairs<PairMath>& pairs, const BFloat16* feats, int cin, const Panels& panels,
                  const SumRows<float>& sums, float* block) {
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
void multiply_tap(const TapPairs<PairMath>& pairs, const BFloat16* feats, int cin, const Panels& panels,
                  const SumRows<float>& sums, float* block) {
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

template <class S, class A>
void finish_row(const ConvTask<S, A>& task, const A* sums, int64_t row, int group) {
  const int64_t at = (row * task.groups + group) * task.cout;
  for (int c = 0; c < task.cout; ++c) {
    A value = sums[c];
    if (task.residual) value += as_sum(task.residual[at + c]);
    if (task.relu) value = value > A(0) || value != value ? value : A(0);
    narrow(value, task.out + at + c);
  }
}

/// In the output where that is possible, else in the scratch.
template <class S, class A>
SumRows<A> sum_rows(const ConvTask<S, A>& task, int group, const Panels& panels, int64_t first_row,
                    A* scratch) {
  if constexpr (sizeof(S) == sizeof(A)) {
    if (accumulates_in_place(task, panels.lanes)) {
      const int64_t stride = static_cast<int64_t>(task.groups) * task.cout;
      return SumRows<A>{task.out + first_row * stride + group * task.cout, stride, first_row};
    }
  }
  return SumRows<A>{scratch, panels.padded(), first_row};
}

/// Scratch: tile_rows * padded sums (unless in place), then a block of copied rows.
template <class S, class A>
void conv_tile(const ConvTask<S, A>& task, int64_t tile, A* scratch) {
  using Math = typename MathOf<S, A>::type;
  using Row = typename Math::Row;
  const PairTiles& pairs = task.pairs;
  const Panels panels(task.cout, kLanes<A>, kMaxVectors);
  const int64_t first_row = pairs.first_row(tile);
  const int64_t last_row = pairs.last_row(tile);
  const int64_t feats_stride = static_cast<int64_t>(task.groups) * task.cin;
  const int length = MathOf<S, A>::kFormat.rows(task.cin);
  const int64_t group_weights = static_cast<int64_t>(length) * panels.padded();
  const bool in_place = accumulates_in_place(task, panels.lanes);
  A* const block = in_place ? scratch : scratch + pairs.tile_rows * panels.padded();

  for (int group = 0; group < task.groups; ++group) {
    const SumRows<A> sums = sum_rows(task, group, panels, first_row, scratch);
    const A* const bias = task.bias + group * panels.padded();
    const S* const feats = task.feats + group * task.cin;
    const auto add_tap = [&](int tap, const A* start) {
      const int64_t begin = pairs.first_pair(tile, tap);
      const int64_t count = pairs.first_pair(tile + 1, tap) - begin;
      if (count == 0) return;
      const Row* const weight = static_cast<const Row*>(task.weight) +
                                (static_cast<int64_t>(tap) * task.groups + group) * group_weights;
      const TapPairs<Math> tap_pairs{pairs.in_index + begin,
                                     pairs.out_index + begin,
                                     count,
                                     reinterpret_cast<const Row*>(feats),
                                     feats_stride,
                                     length,
                                     weight,
                                     start};
      multiply_tap(tap_pairs, feats, task.cin, panels, sums, block);
    };
    if (task.full_tap >= 0) {
      add_tap(task.full_tap, bias);
    } else {
      for (int64_t row = first_row; row < last_row; ++row) {
        A* const y = sums.row(row);
        for (int c = 0; c < panels.padded(); c += kLanes<A>) store<A>(y + c, load<A>(bias + c));
      }
    }
    for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
      if (tap != task.full_tap) add_tap(tap, nullptr);
    }
    if (!in_place || task.residual || task.relu) {
      for (int64_t row = first_row; row < last_row; ++row) finish_row(task, sums.row(row), row, group);
    }
  }
}

/// Scratch: kGradPairs * (cin + padded) sums' worth of widened rows.
template <class S, class A>
void weight_grad(const WeightGradTask<S, A>& task, const WeightGradPart& part, int64_t first,
                 int64_t last, A* scratch) {
  const PairTiles& pairs = task.pairs;
  const Panels panels(task.cout, kLanes<A>, kMaxVectors);
  const int64_t x_stride = static_cast<int64_t>(task.groups) * task.cin;
  const int64_t g_stride = static_cast<int64_t>(task.groups) * task.cout;
  const int64_t dw_stride = static_cast<int64_t>(task.groups) * panels.padded();
  const int channels = part.end - part.begin;
  const bool in_place = sizeof(S) == sizeof(A) && task.cout % kLanes<A> == 0;
  A* const x_copy = scratch;
  A* const g_copy = scratch + static_cast<int64_t>(kGradPairs) * task.cin;
  const A* x[kGradPairs];
  const A* g[kGradPairs];
  const A* x_block[kGradPairs];
  const A* g_block[kGradPairs];
  A* const dw = task.grad_weight + (static_cast<int64_t>(part.tap) * task.cin + part.begin) * dw_stride +
                part.group * panels.padded();

  const int64_t begin = pairs.first_pair(first, part.tap);
  const int64_t end = pairs.first_pair(last, part.tap);
  const EvenGroups blocks(end - begin, kGradPairs);
  for (int64_t block = 0; block < blocks.groups; ++block) {
    const int64_t from = begin + blocks.begin(block);
    const int count = static_cast<int>(begin + blocks.begin(block + 1) - from);
    for (int p = 0; p < count; ++p) {
      const S* const xs =
          task.feats + pairs.in_index[from + p] * x_stride + part.group * task.cin + part.begin;
      const S* const gs = task.grad_out + pairs.out_index[from + p] * g_stride + part.group * task.cout;
      if (in_place) {
        x[p] = reinterpret_cast<const A*>(xs);
        g[p] = reinterpret_cast<const A*>(gs);
      } else {
        widen(xs, x_copy + p * channels, channels);
        A* const padded = g_copy + p * panels.padded();
        widen(gs, padded, task.cout);
        for (int c = task.cout; c < panels.padded(); ++c) padded[c] = A(0);
        x[p] = x_copy + p * channels;
        g[p] = padded;
      }
    }
    if (in_place) {
      const int64_t ahead = from + 2 * count < end ? from + 2 * count : end;
      for (int64_t p = from + count; p < ahead; ++p) {
        prefetch_row(task.feats + pairs.in_index[p] * x_stride + part.group * task.cin + part.begin,
                     channels * static_cast<int64_t>(sizeof(S)));
        prefetch_row(task.grad_out + pairs.out_index[p] * g_stride + part.group * task.cout,
                     task.cout * static_cast<int64_t>(sizeof(S)));
      }
    }
    for (int panel = 0; panel < panels.count; ++panel) {
      const int vectors = panels.width(panel);
      const int column = panels.first(panel) * panels.lanes;
      for (int p = 0; p < count; ++p) g_block[p] = g[p] + column;
      const EvenGroups rows(channels, tile_rows_for(vectors));
      for (int64_t r = 0; r < rows.groups; ++r) {
        const int64_t row = rows.begin(r);
        for (int p = 0; p < count; ++p) x_block[p] = x[p] + row;
        kOuterProduct<A>.at[vectors][rows.begin(r + 1) - row](
            x_block, g_block, count, dw + row * dw_stride + column, dw_stride);
      }
    }
  }
}

template <class T>
void channelwise_tile(const ChannelwiseTask<T>& task, int64_t tile) {
  const PairTiles& pairs = task.pairs;
  const int64_t channels = task.channels;
  for (int64_t row = pairs.first_row(tile); row < pairs.last_row(tile); ++row) {
    T* const y = task.out + row * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] = task.bias ? task.bias[c] : T(0);
  }
  for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
    const T* const w = task.weight ? task.weight + tap * channels : nullptr;
    for (int64_t p = pairs.first_pair(tile, tap); p < pairs.first_pair(tile + 1, tap); ++p) {
      const T* const x = task.feats + pairs.in_index[p] * channels;
      T* const y = task.out + pairs.out_index[p] * channels;
      if (w) {
        for (int64_t c = 0; c < channels; ++c) y[c] += w[c] * x[c];
      } else {
        for (int64_t c = 0; c < channels; ++c) y[c] += x[c];
      }
    }
  }
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
__m512i broadcast(uint64_t v) { return _mm512_set1_epi64(static_cast<int64_t>(v)); }

/// splitmix64() of eight keys.
__m512i splitmix64(__m512i keys) {
  const auto mixed = [](__m512i v, unsigned shift) {
    return _mm512_xor_si512(v, _mm512_srli_epi64(v, shift));
  };
  const __m512i once = _mm512_mullo_epi64(mixed(keys, 30), broadcast(kSplitmixFirst));
  return mixed(_mm512_mullo_epi64(mixed(once, 27), broadcast(kSplitmixSecond)), 31);
}
#endif

uint32_t filter_keys(const HashTableView& table, uint64_t window_key, const uint64_t* steps, int count,
                     Probes* probes) {
  uint32_t passed = 0;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const __m512i last_bit = broadcast(table.capacity * kFilterBitsPerSlot - 1);
  const __m512i last_slot = broadcast(table.capacity - 1);
  for (int i = 0; i < count; i += 8) {
    const __m512i keys = _mm512_add_epi64(broadcast(window_key), _mm512_loadu_si512(steps + i));
    const __m512i hash = splitmix64(keys);
    _mm512_storeu_si512(probes->keys + i, keys);
    _mm512_storeu_si512(probes->homes + i, _mm512_and_si512(hash, last_slot));
    const __m512i bit = _mm512_and_si512(_mm512_srli_epi64(hash, kFilterShift), last_bit);
    const __m512i word = _mm512_srli_epi64(bit, 5);
    const __m256i found = _mm512_i64gather_epi32(word, table.filter, sizeof(uint32_t));
    const __m512i here = _mm512_srlv_epi64(_mm512_cvtepu32_epi64(found),
                                           _mm512_and_si512(bit, broadcast(31)));
    passed |= static_cast<uint32_t>(_mm512_test_epi64_mask(here, broadcast(1))) << i;
  }
#else
  for (int i = 0; i < count; ++i) {
    const uint64_t key = window_key + steps[i];
    const uint64_t hash = splitmix64(key);
    const uint64_t bit = table.filter_bit(hash);
    probes->keys[i] = key;
    probes->homes[i] = table.home(hash);
    passed |= (table.filter[bit / 32] >> (bit % 32) & 1u) << i;
  }
#endif
  return passed & (count < kMaskBits ? (1u << count) - 1u : ~0u);
}

template <class S, class A>
constexpr ConvKernels<S, A> kConvKernels{kLanes<A>, kMaxVectors, MathOf<S, A>::kFormat,
                                         conv_tile<S, A>, weight_grad<S, A>};

}  // namespace

extern const SimdKernels kKernels;
const SimdKernels kKernels{TSL_SIMD_NAME,
                           filter_keys,
                           kConvKernels<float, float>,
                           kConvKernels<double, double>,
                           kConvKernels<BFloat16, float>,
                           kConvKernels<Float16, float>,
                           channelwise_tile<float>,
                           channelwise_tile<double>};

}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
