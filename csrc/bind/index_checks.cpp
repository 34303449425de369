// SPDX-License-Identifier: MIT
#include "bind/index_checks.h"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "cpu/parallel.h"

namespace tsl::bind {
namespace {

/// Seen as unsigned, a negative index is a large one, and the whole test is one maximum, which
/// compilers vectorise. Only when it fails is the culprit searched.
template <class Index>
int64_t first_outside(const Index* index, int64_t size, int64_t first, int64_t count, int threads) {
  using Unsigned = std::make_unsigned_t<Index>;
  const cpu::Blocks blocks(size, cpu::kMinBlock, threads);
  std::atomic<bool> all_inside{true};
  cpu::parallel_blocks(blocks, [&](int64_t block) {
    Unsigned largest = 0;
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
      const Unsigned row = static_cast<Unsigned>(index[i]) - static_cast<Unsigned>(first);
      largest = std::max(largest, row);
    }
    const bool is_empty = blocks.begin(block) == blocks.end(block);
    if (!is_empty && largest >= static_cast<uint64_t>(count - first)) all_inside = false;
  });
  if (all_inside) return cpu::kNoBadRow;
  return cpu::find_first(size, 1, [&](int64_t i) { return index[i] < first || index[i] >= count; });
}

/// accept(tap) for every tap, in parallel; true if all are accepted.
template <class Accept>
bool all_taps(const cpu::PairTiles& pairs, int threads, const Accept& accept) {
  std::atomic<bool> accepted{true};
  cpu::parallel_tasks(pairs.kernel_volume, threads, [&](int64_t tap, int) {
    if (!accept(static_cast<int>(tap))) accepted = false;
  });
  return accepted;
}

/// Whether tile_ptr cuts a tap's pairs into consecutive ranges inside [0, num_pairs).
bool is_cut(const cpu::PairTiles& pairs, int tap, int64_t num_pairs) {
  int64_t end = 0;
  for (int64_t tile = 0; tile <= pairs.num_tiles(); ++tile) {
    const int64_t begin = end;
    end = pairs.first_pair(tile, tap);
    if (end < begin || end > num_pairs) return false;
  }
  return true;
}

/// Whether every range of a tap holds ascending output rows of its own tile. The long test runs
/// over the whole tap, which compilers vectorise; tiles then differ only in where they begin.
bool is_tiled(const cpu::PairTiles& pairs, int tap) {
  const int64_t begin = pairs.first_pair(0, tap);
  const int64_t end = pairs.first_pair(pairs.num_tiles(), tap);
  const int32_t* const out = pairs.out_index;
  if (begin == end) return true;
  bool descends = false;
  for (int64_t p = begin + 1; p < end; ++p) descends |= out[p] <= out[p - 1];
  if (descends || out[begin] < 0 || out[end - 1] >= pairs.num_out) return false;
  for (int64_t tile = 0; tile <= pairs.num_tiles(); ++tile) {
    const int64_t p = pairs.first_pair(tile, tap);
    const int64_t row = pairs.first_row(tile);
    if (p > begin && out[p - 1] >= row) return false;
    if (p < end && out[p] < row) return false;
  }
  return true;
}

/// Pairs that the tiles name; behind them there may be room.
int64_t used_pairs(const cpu::PairTiles& pairs) {
  int64_t used = 0;
  for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
    used = std::max(used, pairs.first_pair(pairs.num_tiles(), tap));
  }
  return used;
}

cpu::PairTiles described(const PairArrays& arrays, int64_t tiled_rows, const char* function) {
  const int64_t pairs = arrays.in_index.shape[0];
  arrays.in_index.expect(message(function, ": in_index").c_str(), DType::kInt32, {-1});
  arrays.out_index.expect(message(function, ": out_index").c_str(), DType::kInt32, {pairs});
  TSL_CHECK(arrays.tile_rows > 0, ValueError, function, ": tile_rows must be positive, got ",
            arrays.tile_rows, ". Use the tile_rows that tile_ptr was made with.");
  const int64_t tiles = (tiled_rows + arrays.tile_rows - 1) / arrays.tile_rows;
  arrays.tile_ptr.expect(message(function, ": tile_ptr").c_str(), DType::kInt64, {tiles + 1, -1});
  return cpu::PairTiles{arrays.in_index.as<int32_t>(),
                        arrays.out_index.as<int32_t>(),
                        arrays.tile_ptr.as<int64_t>(),
                        static_cast<int>(arrays.tile_ptr.shape[1]),
                        arrays.tile_rows,
                        tiled_rows};
}

void check_cut(bool fits, const char* function, int64_t num_pairs) {
  TSL_CHECK(fits, ValueError, function, ": tile_ptr must ascend inside 0..", num_pairs,
            " and give each tile its own output rows in ascending order, got another cut. ",
            "Make it with tile_pairs from the same map.");
}

}  // namespace

void check_rows(const TensorView& index, int64_t first, int64_t count, const char* argument,
                int threads) {
  const auto run = [&](const auto* rows) {
    const int64_t bad = first_outside(rows, index.size(), first, count, threads);
    TSL_CHECK(bad == cpu::kNoBadRow, ValueError, argument, " must be rows from ", first, " to ",
              count - 1, ", got ", rows[bad], " in entry ", bad, ". Point at existing rows.");
  };
  index.dtype == DType::kInt64 ? run(index.as<int64_t>()) : run(index.as<int32_t>());
}

int64_t check_ptr_within(const TensorView& ptr, int64_t count, const char* argument, int threads) {
  const int64_t* const begin = ptr.as<int64_t>();
  const int64_t last = ptr.shape[0] - 1;
  TSL_CHECK(last >= 0, ValueError, argument, " must have at least one entry, got none. ",
            "Give where each segment begins, and the end.");
  const int64_t bad = cpu::find_first(last + 1, threads, [&](int64_t i) {
    return begin[i] < (i == 0 ? 0 : begin[i - 1]) || (i == 0 && begin[i] > 0) || begin[i] > count;
  });
  TSL_CHECK(bad == cpu::kNoBadRow, ValueError, argument, " must ascend from 0 to ", count, ", got ",
            begin[bad], " in entry ", bad, ". Give where each segment begins, and the end.");
  return begin[last];
}

void check_ptr(const TensorView& ptr, int64_t count, const char* argument, int threads) {
  const int64_t end = check_ptr_within(ptr, count, argument, threads);
  TSL_CHECK(end == count, ValueError, argument, " must ascend from 0 to ", count, ", got ", end,
            " in entry ", ptr.shape[0] - 1, ". Give where each segment begins, and the end.");
}

NeighborTable described_table(const TableArrays& arrays, int kernel_volume, const char* function,
                              dlpack::DeviceType device) {
  const int words = mask_words(kernel_volume);
  const int64_t count = arrays.mask.shape[0];
  arrays.mask.expect(message(function, ": mask").c_str(), DType::kInt32, {-1, words}, device);
  arrays.ptr.expect(message(function, ": ptr").c_str(), DType::kInt64, {count + 1}, device);
  arrays.rows.expect(message(function, ": rows").c_str(), DType::kInt32, {-1}, device);
  return NeighborTable{arrays.mask.as<uint32_t>(), arrays.ptr.as<int64_t>(),
                       arrays.rows.as<int32_t>(), words};
}

NeighborTable neighbor_table(const TableArrays& arrays, int kernel_volume, const char* function,
                             int threads) {
  const NeighborTable table = described_table(arrays, kernel_volume, function, dlpack::kCpu);
  const int64_t count = arrays.mask.shape[0];
  const int words = table.words;
  check_ptr_within(arrays.ptr, arrays.rows.shape[0], message(function, ": ptr").c_str(), threads);
  const int last_taps = kernel_volume - (words - 1) * kMaskBits;
  const uint32_t beyond = last_taps == kMaskBits ? 0 : ~uint32_t{0} << last_taps;
  const int64_t bad = cpu::find_first(count, threads, [&](int64_t row) {
    const uint32_t* const word = table.mask + row * words;
    int64_t neighbors = 0;
    for (int w = 0; w < words; ++w) neighbors += count_bits(word[w]);
    return neighbors != table.ptr[row + 1] - table.ptr[row] || (word[words - 1] & beyond) != 0;
  });
  TSL_CHECK(bad == cpu::kNoBadRow, ValueError, function, ": mask must have one bit per neighbour ",
            "and none beyond tap ", kernel_volume - 1, ", got another in row ", bad,
            ". Pass mask, ptr and rows of one search.");
  return table;
}

CheckedPairs described_pairs(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                             const char* function) {
  const int64_t pairs = arrays.in_index.shape[0];
  arrays.in_index.expect(message(function, ": in_index").c_str(), DType::kInt32, {-1},
                         dlpack::kCuda);
  arrays.out_index.expect(message(function, ": out_index").c_str(), DType::kInt32, {pairs},
                          dlpack::kCuda);
  const TensorView& cut = arrays.tile_ptr.expect(message(function, ": tile_ptr").c_str(),
                                                 DType::kInt64, {-1, -1}, dlpack::kCuda);
  TSL_CHECK(cut.shape[0] > 0 && cut.shape[1] > 0, ValueError, function,
            ": tile_ptr must have a row for each tile and one for the end, got ", cut.shape[0],
            " of ", cut.shape[1], " taps. Make it with tile_pairs from the same map.");
  return CheckedPairs{arrays.in_index.as<int32_t>(),
                      arrays.out_index.as<int32_t>(),
                      cut.as<int64_t>(),
                      cut.as<int64_t>() + (cut.shape[0] - 1) * cut.shape[1],
                      pairs,
                      num_in,
                      num_out,
                      static_cast<int>(cut.shape[1])};
}

cpu::PairTiles pair_tiles(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                          const char* function, int threads) {
  const cpu::PairTiles pairs = described(arrays, num_out, function);
  const int64_t num_pairs = arrays.in_index.shape[0];
  const bool fits = all_taps(pairs, threads, [&](int tap) {
    return is_cut(pairs, tap, num_pairs) && is_tiled(pairs, tap);
  });
  check_cut(fits, function, num_pairs);
  check_rows(arrays.in_index.head(used_pairs(pairs)), 0, num_in,
             message(function, ": in_index").c_str(), threads);
  return pairs;
}

cpu::PairTiles untiled_pairs(const PairArrays& arrays, int64_t num_in, int64_t num_out,
                             const char* function, int threads) {
  const int64_t tiled_rows = (arrays.tile_ptr.shape[0] - 1) * arrays.tile_rows;
  const cpu::PairTiles pairs = described(arrays, tiled_rows, function);
  const int64_t num_pairs = arrays.in_index.shape[0];
  const bool fits =
      all_taps(pairs, threads, [&](int tap) { return is_cut(pairs, tap, num_pairs); });
  check_cut(fits, function, num_pairs);
  const int64_t used = used_pairs(pairs);
  check_rows(arrays.in_index.head(used), 0, num_in, message(function, ": in_index").c_str(),
             threads);
  check_rows(arrays.out_index.head(used), 0, num_out, message(function, ": out_index").c_str(),
             threads);
  return pairs;
}

}  // namespace tsl::bind
