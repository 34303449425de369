// SPDX-License-Identifier: MIT
#include "cpu/coords.h"

#include <cmath>

#include "cpu/parallel.h"
#include "cpu/radix_sort.h"
#include "kernels/coarsen.h"

namespace tsl::cpu {
namespace {

/// Bits that tell the given coordinates apart, per axis and for the batch. Dropping the bits
/// between the sign and the largest magnitude changes neither equality nor Morton order.
struct KeyBits {
  int axis = 1;
  int batch = 0;

  int total() const { return batch + 3 * axis; }

  uint64_t key(const Coord& c) const {
    const int32_t bias = int32_t{1} << (axis - 1);
    const auto spread = [&](int32_t v) { return spread_bits(static_cast<uint32_t>(v + bias)); };
    return (static_cast<uint64_t>(c.batch) << (3 * axis)) | (spread(c.x) << 2) |
           (spread(c.y) << 1) | spread(c.z);
  }
};

int bit_length(uint32_t value) {
  int bits = 0;
  for (; value; value >>= 1) ++bits;
  return bits;
}

KeyBits key_bits(const Coord* coords, int64_t count) {
  uint32_t axis_union = 0;
  uint32_t batch_union = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Coord& c = coords[i];
    const auto magnitude = [](int32_t v) { return static_cast<uint32_t>(v < 0 ? ~v : v); };
    axis_union |= magnitude(c.x) | magnitude(c.y) | magnitude(c.z);
    batch_union |= static_cast<uint32_t>(c.batch);
  }
  return KeyBits{bit_length(axis_union) + 1, bit_length(batch_union)};
}

struct KeyedRow {
  uint64_t key;
  int32_t row;
};

/// Fills `order` with the rows sorted by key (stable) and `group_ptr` with where the key changes.
template <class Record, class Key, class Row>
UniqueCoords group(std::vector<Record>& records, int bits, int threads, const Key& key,
                   const Row& row) {
  std::vector<Record> scratch(records.size());
  radix_sort(records, scratch, bits, threads, key);
  UniqueCoords result;
  result.order.resize(records.size());
  result.group_ptr.reserve(records.size() + 1);
  for (size_t i = 0; i < records.size(); ++i) {
    result.order[i] = row(records[i]);
    if (i == 0 || key(records[i]) != key(records[i - 1])) {
      result.group_ptr.push_back(static_cast<int32_t>(i));
    }
  }
  result.group_ptr.push_back(static_cast<int32_t>(records.size()));
  return result;
}

}  // namespace

template <class T>
QuantizeResult quantize(const T* xyz, const int32_t* batch, int64_t count,
                        const double voxel_size[3], const double origin[3], Coord* coords,
                        int threads) {
  const Quantize<T> quantize = quantizer(xyz, batch, voxel_size, origin, coords);
  const int64_t bad = find_first(count, threads, [&](int64_t i) { return !quantize.row(i); });
  QuantizeResult result;
  result.bad_row = bad;
  if (bad != kNoBadRow) {
    result.is_finite = std::isfinite(xyz[3 * bad]) && std::isfinite(xyz[3 * bad + 1]) &&
                       std::isfinite(xyz[3 * bad + 2]);
  }
  return result;
}

template QuantizeResult quantize<float>(const float*, const int32_t*, int64_t, const double[3],
                                        const double[3], Coord*, int);
template QuantizeResult quantize<double>(const double*, const int32_t*, int64_t, const double[3],
                                         const double[3], Coord*, int);

int64_t first_out_of_range(const Coord* coords, int64_t count, int threads) {
  return find_first(count, threads, [&](int64_t i) { return !in_range(coords[i]); });
}

bool is_morton_ordered(const Coord* coords, int64_t count, int threads) {
  const Blocks blocks(count, kMinBlock, threads);
  std::vector<char> ordered(static_cast<size_t>(blocks.blocks), 1);
  parallel_blocks(blocks, [&](int64_t block) {
    const int64_t begin = std::max<int64_t>(blocks.begin(block), 1);
    if (begin >= blocks.end(block)) return;
    uint64_t previous = morton_key(coords[begin - 1]);
    for (int64_t i = begin; i < blocks.end(block); ++i) {
      const uint64_t key = morton_key(coords[i]);
      if (key <= previous) {
        ordered[static_cast<size_t>(block)] = 0;
        return;
      }
      previous = key;
    }
  });
  return std::all_of(ordered.begin(), ordered.end(), [](char ok) { return ok != 0; });
}

UniqueCoords unique_coords(const Coord* coords, int64_t count, int threads) {
  const KeyBits bits = key_bits(coords, count);
  if (bits.axis > kAxisBits || bits.batch > kBatchBits) return UniqueCoords{{}, {}, false};
  const int row_bits = bit_length(static_cast<uint32_t>(count));
  const size_t size = static_cast<size_t>(count);
  if (bits.total() + row_bits <= 64) {
    // Key and row share one word: half the bytes to move in every pass.
    std::vector<uint64_t> records(size);
    for_each(count, threads, [&](int64_t i) {
      records[static_cast<size_t>(i)] = bits.key(coords[i]) | static_cast<uint64_t>(i)
                                                                  << bits.total();
    });
    const uint64_t key_mask = (uint64_t{1} << bits.total()) - 1;
    return group(
        records, bits.total(), threads, [&](uint64_t r) { return r & key_mask; },
        [&](uint64_t r) { return static_cast<int32_t>(r >> bits.total()); });
  }
  std::vector<KeyedRow> records(size);
  for_each(count, threads, [&](int64_t i) {
    records[static_cast<size_t>(i)] = KeyedRow{bits.key(coords[i]), static_cast<int32_t>(i)};
  });
  return group(
      records, bits.total(), threads, [](const KeyedRow& r) { return r.key; },
      [](const KeyedRow& r) { return r.row; });
}

Coarsened coarsen(const Coord* coords, int64_t count, int threads) {
  while (count > 0 && is_dead(coords[count - 1])) --count;
  const Blocks blocks(count, kMinBlock, threads);
  const CellChanges starts_cell{coords};
  std::vector<int64_t> cell_begin(static_cast<size_t>(blocks.blocks) + 1, 0);
  parallel_blocks(blocks, [&](int64_t block) {
    int64_t cells = 0;
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) cells += starts_cell(i);
    cell_begin[static_cast<size_t>(block) + 1] = cells;
  });
  for (size_t block = 1; block < cell_begin.size(); ++block) {
    cell_begin[block] += cell_begin[block - 1];
  }

  Coarsened result;
  const size_t cells = static_cast<size_t>(cell_begin.back());
  result.child_ptr.resize(cells + 1);
  result.child_mask.resize(cells);
  result.child_ptr[cells] = static_cast<int32_t>(count);
  parallel_blocks(blocks, [&](int64_t block) {
    int64_t cell = cell_begin[static_cast<size_t>(block)];
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
      if (starts_cell(i)) result.child_ptr[static_cast<size_t>(cell++)] = static_cast<int32_t>(i);
    }
  });
  for_each(static_cast<int64_t>(cells), threads, [&](int64_t cell) {
    const size_t c = static_cast<size_t>(cell);
    unsigned mask = 0;
    for (int32_t child = result.child_ptr[c]; child < result.child_ptr[c + 1]; ++child) {
      mask |= 1u << octant_of(coords[child]);
    }
    result.child_mask[c] = static_cast<uint8_t>(mask);
  });
  return result;
}

}  // namespace tsl::cpu
