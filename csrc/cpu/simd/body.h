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

/// y[r][v] (+)= x[r][0..cin) * weight[0..cin)[v]; with kFirst the sums start from `start`.
template <class T, int kRows, int kVectors, bool kFirst>
void multiply(const T* const* x, T* const* y, const T* weight, int cin, const T* start) {
  Vector<T> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = load<T>((kFirst ? start : y[r]) + v * kLanes<T>);
    }
  }
  const T* row[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) row[r] = x[r];
#pragma GCC unroll 2
  for (int ci = 0; ci < cin; ++ci) {
    Vector<T> w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = load<T>(weight + v * kLanes<T>);
    weight += kVectors * kLanes<T>;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T value = row[r][ci];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += value * w[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store<T>(y[r] + v * kLanes<T>, sum[r][v]);
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

template <class T>
using Multiply = void (*)(const T* const*, T* const*, const T*, int, const T*);
template <class T>
using OuterProduct = void (*)(const T* const*, const T* const*, int, T*, int64_t);

/// Tables over the number of rows (1..kMaxRows) for one panel width.
template <class T, int kVectors>
struct RowTable {
  Multiply<T> first[kMaxRows + 1] = {};
  Multiply<T> next[kMaxRows + 1] = {};
  OuterProduct<T> outer[kMaxRows + 1] = {};

  constexpr RowTable() { add<tile_rows_for(kVectors)>(); }

  template <int kRows>
  constexpr void add() {
    first[kRows] = multiply<T, kRows, kVectors, true>;
    next[kRows] = multiply<T, kRows, kVectors, false>;
    outer[kRows] = outer_product<T, kRows, kVectors>;
    if constexpr (kRows > 1) add<kRows - 1>();
  }
};

template <class T, int kVectors>
constexpr RowTable<T, kVectors> kRowTable{};

template <class T>
Multiply<T> multiply_for(int vectors, int rows, bool first) {
  const auto pick = [&](const auto& table) { return first ? table.first[rows] : table.next[rows]; };
  switch (vectors) {
    case 1:
      return pick(kRowTable<T, 1>);
    case 2:
      return pick(kRowTable<T, 2>);
    case 3:
      return pick(kRowTable<T, 3>);
    default:
      return pick(kRowTable<T, kMaxVectors>);
  }
}

template <class T>
OuterProduct<T> outer_product_for(int vectors, int rows) {
  switch (vectors) {
    case 1:
      return kRowTable<T, 1>.outer[rows];
    case 2:
      return kRowTable<T, 2>.outer[rows];
    case 3:
      return kRowTable<T, 3>.outer[rows];
    default:
      return kRowTable<T, kMaxVectors>.outer[rows];
  }
}

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

/// Where the sums of a tile are collected.
template <class A>
struct SumRows {
  A* base;          // of row `first_row`
  int64_t stride;
  int64_t first_row;
  A* row(int64_t out_row) const { return base + (out_row - first_row) * stride; }
};

/// All pairs [begin, end) of one tap and channel group, rows read in place.
template <class T>
void multiply_pairs(const PairTiles& pairs, int64_t begin, int64_t end, const T* feats,
                    int64_t feats_stride, int cin, const T* weight, const Panels& panels,
                    const SumRows<T>& sums, const T* start) {
  const T* x[kMaxRows];
  T* y[kMaxRows];
  for (int panel = 0; panel < panels.count; ++panel) {
    const int vectors = panels.width(panel);
    const int column = panels.first(panel) * panels.lanes;
    const T* const panel_weight = weight + static_cast<int64_t>(column) * cin;
    const T* const panel_start = start ? start + column : nullptr;
    const EvenGroups groups(end - begin, tile_rows_for(vectors));
    for (int64_t group = 0; group < groups.groups; ++group) {
      const int64_t first = begin + groups.begin(group);
      const int64_t last = begin + groups.begin(group + 1);
      const int rows = static_cast<int>(last - first);
      for (int r = 0; r < rows; ++r) {
        x[r] = feats + pairs.in_index[first + r] * feats_stride;
        y[r] = sums.row(pairs.out_index[first + r]) + column;
      }
      if (panel == 0) {
        const int64_t ahead = last + rows < end ? last + rows : end;
        for (int64_t p = last; p < ahead; ++p) {
          prefetch_row(feats + pairs.in_index[p] * feats_stride, cin * static_cast<int64_t>(sizeof(T)));
          prefetch_row(sums.row(pairs.out_index[p]), panels.width(0) * TSL_SIMD_BYTES);
        }
      }
      multiply_for<T>(vectors, rows, start != nullptr)(x, y, panel_weight, cin, panel_start);
    }
  }
}

/// The same for types that must be widened: a block of rows is converted once for all panels.
template <class S, class A>
void multiply_widened(const PairTiles& pairs, int64_t begin, int64_t end, const S* feats,
                      int64_t feats_stride, int cin, const A* weight, const Panels& panels,
                      const SumRows<A>& sums, const A* start, A* block) {
  int32_t in_block[kBlockPairs];
  for (int i = 0; i < kBlockPairs; ++i) in_block[i] = i;
  for (int64_t first = begin; first < end; first += kBlockPairs) {
    const int64_t count = end - first < kBlockPairs ? end - first : kBlockPairs;
    for (int64_t p = 0; p < count; ++p) {
      widen(feats + pairs.in_index[first + p] * feats_stride, block + p * cin, cin);
    }
    PairTiles widened = pairs;
    widened.in_index = in_block;
    widened.out_index = pairs.out_index + first;
    multiply_pairs<A>(widened, 0, count, block, cin, cin, weight, panels, sums, start);
  }
}

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

/// Scratch: tile_rows * padded sums (unless in place), then kBlockPairs * cin widened inputs.
template <class S, class A>
void conv_tile(const ConvTask<S, A>& task, int64_t tile, A* scratch) {
  constexpr bool kWidens = sizeof(S) != sizeof(A);
  const PairTiles& pairs = task.pairs;
  const Panels panels(task.cout, kLanes<A>, kMaxVectors);
  const int64_t first_row = pairs.first_row(tile);
  const int64_t last_row = pairs.last_row(tile);
  const int64_t feats_stride = static_cast<int64_t>(task.groups) * task.cin;
  const int64_t group_weights = static_cast<int64_t>(task.cin) * panels.padded();
  const bool in_place = accumulates_in_place(task, panels.lanes);
  A* const block = in_place ? scratch : scratch + pairs.tile_rows * panels.padded();

  for (int group = 0; group < task.groups; ++group) {
    const SumRows<A> sums = sum_rows(task, group, panels, first_row, scratch);
    const A* const bias = task.bias + group * panels.padded();
    const auto add_tap = [&](int tap, const A* start) {
      const int64_t begin = pairs.first_pair(tile, tap);
      const int64_t end = pairs.first_pair(tile + 1, tap);
      const A* const weight =
          task.weight + (static_cast<int64_t>(tap) * task.groups + group) * group_weights;
      const S* const feats = task.feats + group * task.cin;
      if (begin == end) return;
      if constexpr (kWidens) {
        multiply_widened(pairs, begin, end, feats, feats_stride, task.cin, weight, panels, sums,
                         start, block);
      } else {
        multiply_pairs(pairs, begin, end, feats, feats_stride, task.cin, weight, panels, sums,
                       start);
      }
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
        outer_product_for<A>(vectors, static_cast<int>(rows.begin(r + 1) - row))(
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
constexpr ConvKernels<S, A> kConvKernels{kLanes<A>, kMaxVectors, conv_tile<S, A>, weight_grad<S, A>};

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
