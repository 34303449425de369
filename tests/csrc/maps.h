// SPDX-License-Identifier: MIT
// Kernel maps by brute force, in the layouts that the kernels read, and owners of such arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <ostream>
#include <tuple>
#include <vector>

#include "clouds.h"
#include "core/conv_geometry.h"
#include "core/hash_table.h"
#include "core/neighbor_table.h"
#include "cpu/simd/kernels.h"
#include "kernels/hash_insert.h"

namespace tsl {

inline std::ostream& operator<<(std::ostream& stream, const ConvGeometry& g) {
  const auto triple = [&](const char* name, const int32_t v[3]) {
    stream << name << v[0] << "," << v[1] << "," << v[2];
  };
  triple("kernel_size ", g.kernel_size);
  triple(" stride ", g.stride);
  triple(" dilation ", g.dilation);
  triple(" padding ", g.padding);
  return stream;
}

}  // namespace tsl

namespace tsl::test {

inline ConvGeometry cubic(int32_t kernel_size, int32_t stride, int32_t dilation, int32_t padding) {
  ConvGeometry g{};
  for (int axis = 0; axis < 3; ++axis) {
    g.kernel_size[axis] = kernel_size;
    g.stride[axis] = stride;
    g.dilation[axis] = dilation;
    g.padding[axis] = padding;
  }
  return g;
}

struct Pair {
  int tap;
  int32_t in, out;
};

inline bool operator==(const Pair& a, const Pair& b) {
  return a.tap == b.tap && a.in == b.in && a.out == b.out;
}
inline std::ostream& operator<<(std::ostream& stream, const Pair& p) {
  return stream << "tap " << p.tap << ": " << p.in << " -> " << p.out;
}

inline bool row_major(const Pair& a, const Pair& b) {
  return std::tie(a.out, a.tap, a.in) < std::tie(b.out, b.tap, b.in);
}
inline bool tap_major(const Pair& a, const Pair& b) {
  return std::tie(a.tap, a.out, a.in) < std::tie(b.tap, b.out, b.in);
}

inline std::vector<Pair> reversed(std::vector<Pair> pairs) {
  for (Pair& pair : pairs) std::swap(pair.in, pair.out);
  return pairs;
}

inline std::vector<Pair> sorted(std::vector<Pair> pairs, bool (*less)(const Pair&, const Pair&)) {
  std::sort(pairs.begin(), pairs.end(), less);
  return pairs;
}

/// Every (fine, coarse, tap) with fine = stride * coarse + dilation * tap - padding; fine is `in`.
inline std::vector<Pair> brute_force_pairs(const Coords& coarse, const Coords& fine,
                                           const ConvGeometry& g) {
  const std::map<Key, int32_t> fine_rows = rows_by_coord(fine);
  std::vector<Pair> pairs;
  for (size_t row = 0; row < coarse.size(); ++row) {
    const int64_t base[3] = {int64_t{g.stride[0]} * coarse[row].x - g.padding[0],
                             int64_t{g.stride[1]} * coarse[row].y - g.padding[1],
                             int64_t{g.stride[2]} * coarse[row].z - g.padding[2]};
    int tap = 0;
    for (int32_t x = 0; x < g.kernel_size[0]; ++x) {
      for (int32_t y = 0; y < g.kernel_size[1]; ++y) {
        for (int32_t z = 0; z < g.kernel_size[2]; ++z, ++tap) {
          const int64_t site[3] = {base[0] + int64_t{g.dilation[0]} * x,
                                   base[1] + int64_t{g.dilation[1]} * y,
                                   base[2] + int64_t{g.dilation[2]} * z};
          const Key key{coarse[row].batch, static_cast<int32_t>(site[0]),
                        static_cast<int32_t>(site[1]), static_cast<int32_t>(site[2])};
          const auto found = fine_rows.find(key);
          const bool fits = key[1] == site[0] && key[2] == site[1] && key[3] == site[2];
          if (!fits || found == fine_rows.end()) continue;
          pairs.push_back(Pair{tap, found->second, static_cast<int32_t>(row)});
        }
      }
    }
  }
  return pairs;
}

/// Owner of a neighbour table: the row-major view.
struct OwnedTable {
  std::vector<uint32_t> mask;
  std::vector<int64_t> ptr;
  std::vector<int32_t> rows;
  int words;

  OwnedTable(int64_t num_out, int kernel_volume)
      : mask(static_cast<size_t>(num_out * mask_words(kernel_volume)), 0xdeadbeefu),
        ptr(static_cast<size_t>(num_out) + 1, -7),
        words(mask_words(kernel_volume)) {}

  NeighborTable view() const { return NeighborTable{mask.data(), ptr.data(), rows.data(), words}; }
};

inline OwnedTable table_of(const std::vector<Pair>& pairs, int64_t num_out, int kernel_volume) {
  OwnedTable table(num_out, kernel_volume);
  std::fill(table.mask.begin(), table.mask.end(), 0u);
  std::fill(table.ptr.begin(), table.ptr.end(), 0);
  for (const Pair& pair : sorted(pairs, row_major)) {
    at(table.mask, pair.out * table.words + pair.tap / 32) |= 1u << (pair.tap % 32);
    ++at(table.ptr, pair.out + 1);
    table.rows.push_back(pair.in);
  }
  for (int64_t row = 0; row < num_out; ++row) at(table.ptr, row + 1) += at(table.ptr, row);
  return table;
}

/// Owner of tiled pair lists: the tap-major view.
struct OwnedPairs {
  std::vector<int32_t> in_index;
  std::vector<int32_t> out_index;
  std::vector<int64_t> tap_ptr;
  std::vector<int64_t> tile_ptr;
  int kernel_volume;
  int64_t tile_rows;
  int64_t num_out;

  cpu::PairTiles tiles() const {
    return cpu::PairTiles{in_index.data(), out_index.data(), tile_ptr.data(),
                          kernel_volume,   tile_rows,        num_out};
  }
};

inline OwnedPairs pairs_of(const std::vector<Pair>& pairs, int64_t num_out, int kernel_volume,
                           int64_t tile_rows) {
  OwnedPairs lists{{}, {}, {}, {}, kernel_volume, tile_rows, num_out};
  const std::vector<Pair> ordered = sorted(pairs, tap_major);
  const int64_t tiles = (num_out + tile_rows - 1) / tile_rows;
  lists.tap_ptr.assign(static_cast<size_t>(kernel_volume) + 1, 0);
  lists.tile_ptr.assign(static_cast<size_t>((tiles + 1) * kernel_volume), 0);
  for (const Pair& pair : ordered) {
    lists.in_index.push_back(pair.in);
    lists.out_index.push_back(pair.out);
    ++at(lists.tap_ptr, pair.tap + 1);
    ++at(lists.tile_ptr, (pair.out / tile_rows + 1) * kernel_volume + pair.tap);
  }
  for (int tap = 0; tap < kernel_volume; ++tap) {
    at(lists.tap_ptr, tap + 1) += at(lists.tap_ptr, tap);
    at(lists.tile_ptr, tap) = at(lists.tap_ptr, tap);
    for (int64_t tile = 1; tile <= tiles; ++tile) {
      at(lists.tile_ptr, tile * kernel_volume + tap) +=
          at(lists.tile_ptr, (tile - 1) * kernel_volume + tap);
    }
  }
  return lists;
}

struct OwnedHashTable {
  std::vector<uint64_t> keys;
  std::vector<int32_t> rows;
  std::vector<uint32_t> filter;
  HashTableView view;

  explicit OwnedHashTable(uint64_t capacity)
      : keys(capacity + 1, kEmptyKey),
        rows(capacity + 1, kNoRow),
        filter(capacity * kFilterBitsPerSlot / 32, 0u),
        view{keys.data(), rows.data(), filter.data(), capacity} {}

  explicit OwnedHashTable(const Coords& coords)
      : OwnedHashTable(hash_capacity(static_cast<uint64_t>(coords.size()))) {
    const HashInsert insert{coords.data(), view};
    for (int64_t i = 0; i < size_of(coords); ++i) insert(i);
  }
  OwnedHashTable(const OwnedHashTable&) = delete;
  OwnedHashTable& operator=(const OwnedHashTable&) = delete;
};

/// All tables that this processor can run.
inline std::vector<const cpu::SimdKernels*> all_simd_kernels() {
  std::vector<const cpu::SimdKernels*> tables;
  for (auto table = cpu::available_simd_kernels(); *table; ++table) tables.push_back(*table);
  return tables;
}

}  // namespace tsl::test
