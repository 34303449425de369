// SPDX-License-Identifier: MIT
#include "cpu/neighbors.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/descent.h"
#include "cpu/parallel.h"
#include "cpu/simd/kernels.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kSearchBlock = 2048;

/// Counts in ptr[1..] become offsets.
void accumulate(int64_t* ptr, int64_t count) {
  ptr[0] = 0;
  for (int64_t i = 0; i < count; ++i) ptr[i + 1] += ptr[i];
}

/// Collects the input rows of one block.
class RowWriter {
 public:
  explicit RowWriter(std::vector<int32_t>* rows) : rows_(rows) {}

  /// Room for `count` more rows behind those that are there.
  int32_t* reserve(int count) {
    if (rows_->size() < used_ + static_cast<size_t>(count)) {
      rows_->resize(std::max(2 * rows_->size(), used_ + static_cast<size_t>(count)));
    }
    return rows_->data() + used_;
  }

  void advance(int count) { used_ += static_cast<size_t>(count); }

  /// Of the reserved rows those whose bit is set move together and stay; returns their number.
  int keep(uint32_t bits) {
    int32_t* const rows = rows_->data() + used_;
    int kept = 0;
    for (; bits; bits &= bits - 1) rows[kept++] = rows[lowest_bit(bits)];
    advance(kept);
    return kept;
  }

  ~RowWriter() { rows_->resize(used_); }

 private:
  std::vector<int32_t>* rows_;
  size_t used_ = 0;
};

/// search(item, writer) for every item, in blocks handed out to threads; it leaves the number of
/// neighbours of each output row in ptr[row + 1], which then become offsets.
template <class Search>
RowBlocks search_blocks(int64_t items, int64_t num_out, int64_t* ptr, int threads,
                        const Search& search) {
  RowBlocks blocks(static_cast<size_t>((items + kSearchBlock - 1) / kSearchBlock));
  parallel_tasks(static_cast<int64_t>(blocks.size()), threads, [&](int64_t block, int) {
    RowWriter writer(&blocks[static_cast<size_t>(block)]);
    const int64_t end = std::min(items, (block + 1) * kSearchBlock);
    for (int64_t item = block * kSearchBlock; item < end; ++item) search(item, writer);
  });
  accumulate(ptr, num_out);
  return blocks;
}

/// Looks up the windows of coarse sites in a hash table.
class WindowLookup {
 public:
  WindowLookup(const ConvGeometry& geometry, const HashTableView& table)
      : geometry_(geometry), table_(table), filter_keys_(simd_kernels().filter_keys) {
    for (int k = 0; k < geometry.kernel_volume(); ++k) {
      const Tap tap = geometry.tap(k);
      taps_.push_back(tap);
      steps_.push_back(packed_key_step(geometry.fine_axis(0, 0, tap.x),
                                       geometry.fine_axis(1, 0, tap.y),
                                       geometry.fine_axis(2, 0, tap.z)));
    }
    steps_.resize(steps_.size() + kMaskBits, steps_.back());  // read, but not used
  }

  struct Window {
    Coord coarse;
    uint64_t key;   // packed key of the fine site at step zero, if the window is interior
    bool interior;  // every tap is in range, and none has the key that marks an empty slot
  };

  Window window(const Coord& coarse) const {
    Coord low;
    Coord high;
    const ConvGeometry& g = geometry_;
    const Tap last{g.kernel_size[0] - 1, g.kernel_size[1] - 1, g.kernel_size[2] - 1};
    const bool interior = g.fine_from_coarse(coarse, Tap{0, 0, 0}, &low) &&
                          g.fine_from_coarse(coarse, last, &high) && high.x < kAxisMax;
    return Window{coarse, interior ? packed_key(low) - steps_.front() : 0, interior};
  }

  /// Row of the fine site behind one tap, or kNoRow.
  int32_t find(const Window& window, int tap) const {
    const size_t t = static_cast<size_t>(tap);
    if (window.interior) return table_.find(window.key + steps_[t]);
    Coord fine;
    const bool in_range = geometry_.fine_from_coarse(window.coarse, taps_[t], &fine);
    return in_range ? table_.find(packed_key(fine)) : kNoRow;
  }

  /// Which of the taps [first, last), at most 32, have an input (bit 0 is `first`), and their rows.
  uint32_t find_all(const Window& window, int first, int last, int32_t rows[kMaskBits]) const {
    uint32_t hits = 0;
    const auto take = [&](int i, int32_t row) {
      rows[i] = row;
      hits |= static_cast<uint32_t>(row >= 0) << i;
    };
    if (!window.interior) {
      for (int i = 0; i < last - first; ++i) take(i, find(window, first + i));
      return hits;
    }
    Probes probes;
    const uint64_t* const steps = steps_.data() + first;
    uint32_t passed = filter_keys_(table_, window.key, steps, last - first, &probes);
    for (; passed; passed &= passed - 1) {
      const int i = lowest_bit(passed);
      take(i, table_.find_from(probes.homes[i], probes.keys[i]));
    }
    return hits;
  }

 private:
  ConvGeometry geometry_;
  HashTableView table_;
  decltype(SimdKernels::filter_keys) filter_keys_;
  std::vector<uint64_t> steps_;
  std::vector<Tap> taps_;
};

struct BlockParts : std::array<BlockPart, kDescentTaps> {
  BlockParts() {
    for (int tap = 0; tap < kDescentTaps; ++tap)
      (*this)[static_cast<size_t>(tap)] = block_part(tap);
  }
};

struct ChildBlocks : std::array<uint64_t, 256> {
  ChildBlocks() {
    for (uint32_t mask = 0; mask < 256; ++mask) (*this)[mask] = block_from_children(mask);
  }
};

/// Where a child of octant o finds its neighbour through a tap.
struct Windows : std::array<std::array<BlockCell, kDescentTaps>, 8> {
  Windows() {
    for (int octant = 0; octant < 8; ++octant) {
      for (int tap = 0; tap < kDescentTaps; ++tap) {
        (*this)[static_cast<size_t>(octant)][static_cast<size_t>(tap)] = block_cell(octant, tap);
      }
    }
  }
};

const BlockParts kBlockParts;
const ChildBlocks kChildBlocks;
const Windows kWindows;

}  // namespace

RowBlocks HashSearch::run(uint32_t* mask, int64_t* ptr, int threads) const {
  const WindowLookup lookup(geometry, fine);
  const int volume = geometry.kernel_volume();
  const int words = mask_words(volume);
  return search_blocks(num_coarse, num_coarse, ptr, threads, [&](int64_t row, RowWriter& rows) {
    const WindowLookup::Window window = lookup.window(coarse[row]);
    const bool is_live = !is_dead(coarse[row]);
    int64_t neighbors = 0;
    for (int first = 0; first < volume; first += kMaskBits) {
      const int last = std::min(first + kMaskBits, volume);
      const uint32_t hits =
          is_live ? lookup.find_all(window, first, last, rows.reserve(kMaskBits)) : 0;
      mask[row * words + first / kMaskBits] = hits;
      neighbors += rows.keep(hits);
    }
    ptr[row + 1] = neighbors;
  });
}

RowBlocks InverseSearch::run(uint32_t* mask, int64_t* ptr, int threads) const {
  const ConvGeometry& g = geometry;
  const int words = mask_words(g.kernel_volume());
  std::fill(mask, mask + num_fine * words, 0u);
  return search_blocks(num_fine, num_fine, ptr, threads, [&](int64_t row, RowWriter& rows) {
    const Coord& site = fine[row];
    int64_t neighbors = 0;
    ptr[row + 1] = 0;
    if (is_dead(site)) return;
    const auto look_up = [&](int tap, int64_t x, int64_t y, int64_t z) {
      if (!axis_in_range(x) || !axis_in_range(y) || !axis_in_range(z)) return;
      const Coord seen_from{site.batch, static_cast<int32_t>(x), static_cast<int32_t>(y),
                            static_cast<int32_t>(z)};
      const int32_t found = coarse.find(packed_key(seen_from));
      if (found < 0) return;
      mask[row * words + tap / kMaskBits] |= 1u << (tap % kMaskBits);
      *rows.reserve(1) = found;
      rows.advance(1);
      ++neighbors;
    };
    for (int tap_x = 0; tap_x < g.kernel_size[0]; ++tap_x) {
      int64_t x;
      if (!g.coarse_axis(0, site.x, tap_x, &x)) continue;
      for (int tap_y = 0; tap_y < g.kernel_size[1]; ++tap_y) {
        int64_t y;
        if (!g.coarse_axis(1, site.y, tap_y, &y)) continue;
        for (int tap_z = 0; tap_z < g.kernel_size[2]; ++tap_z) {
          int64_t z;
          if (!g.coarse_axis(2, site.z, tap_z, &z)) continue;
          look_up((tap_x * g.kernel_size[1] + tap_y) * g.kernel_size[2] + tap_z, x, y, z);
        }
      }
    }
    ptr[row + 1] = neighbors;
  });
}

RowBlocks Descent::run(uint32_t* mask, int64_t* ptr, int threads) const {
  const int64_t num_children = child_ptr[num_cells];
  return search_blocks(num_cells, num_children, ptr, threads, [&](int64_t cell, RowWriter& rows) {
    uint64_t block = 0;
    int32_t neighbor_at[kDescentTaps];  // written where there is one; nothing else is read
    cells.for_each(cell, [&](int tap, int32_t neighbor) {
      neighbor_at[tap] = neighbor;
      block |= kBlockParts[static_cast<size_t>(tap)].place(kChildBlocks[child_mask[neighbor]]);
    });
    int32_t child = child_ptr[cell];
    for (uint32_t octants = child_mask[cell]; octants; octants &= octants - 1, ++child) {
      const int octant = lowest_bit(octants);
      const std::array<BlockCell, kDescentTaps>& window = kWindows[static_cast<size_t>(octant)];
      mask[child] = taps_from_window(block >> window_shift(octant));
      int32_t* to = rows.reserve(kDescentTaps);
      for (uint32_t taps = mask[child]; taps; taps &= taps - 1) {
        const BlockCell& at = window[static_cast<size_t>(lowest_bit(taps))];
        const int32_t neighbor = neighbor_at[at.cell_tap];
        *to++ = child_ptr[neighbor] + count_bits(child_mask[neighbor] & at.octants_before);
      }
      ptr[child + 1] = count_bits(mask[child]);
      rows.advance(count_bits(mask[child]));
    }
  });
}

void join(const RowBlocks& blocks, int32_t* rows, int threads) {
  std::vector<int64_t> begin(blocks.size() + 1, 0);
  for (size_t i = 0; i < blocks.size(); ++i) {
    begin[i + 1] = begin[i] + static_cast<int64_t>(blocks[i].size());
  }
  parallel_tasks(static_cast<int64_t>(blocks.size()), threads, [&](int64_t block, int) {
    const size_t i = static_cast<size_t>(block);
    std::copy(blocks[i].begin(), blocks[i].end(), rows + begin[i]);
  });
}

void pairs_by_tap(const NeighborTable& table, int64_t num_out, int kernel_volume, int64_t* tap_ptr,
                  int32_t* in_index, int32_t* out_index, int threads) {
  const size_t volume = static_cast<size_t>(kernel_volume);
  const Blocks blocks(num_out, kMinBlock, threads);
  std::vector<int64_t> position(static_cast<size_t>(blocks.blocks) * volume, 0);
  parallel_blocks(blocks, [&](int64_t block) {
    int64_t* const count = position.data() + static_cast<size_t>(block) * volume;
    for (int64_t row = blocks.begin(block); row < blocks.end(block); ++row) {
      table.for_each(row, [&](int tap, int32_t) { ++count[tap]; });
    }
  });
  int64_t next = 0;
  for (size_t tap = 0; tap < volume; ++tap) {
    tap_ptr[tap] = next;
    for (int64_t block = 0; block < blocks.blocks; ++block) {
      next += std::exchange(position[static_cast<size_t>(block) * volume + tap], next);
    }
  }
  tap_ptr[volume] = next;
  parallel_blocks(blocks, [&](int64_t block) {
    int64_t* const write = position.data() + static_cast<size_t>(block) * volume;
    for (int64_t row = blocks.begin(block); row < blocks.end(block); ++row) {
      table.for_each(row, [&](int tap, int32_t input) {
        const int64_t at = write[tap]++;
        in_index[at] = input;
        out_index[at] = static_cast<int32_t>(row);
      });
    }
  });
}

void transpose_pairs(const int32_t* in_index, const int32_t* out_index, const int64_t* tap_ptr,
                     int kernel_volume, int64_t num_in, int32_t* new_in, int32_t* new_out,
                     int threads) {
  std::vector<std::vector<int32_t>> out_of_input(
      static_cast<size_t>(worker_count(kernel_volume, threads)));
  parallel_tasks(kernel_volume, threads, [&](int64_t tap, int worker) {
    const int64_t begin = tap_ptr[tap];
    const int64_t end = tap_ptr[tap + 1];
    if (std::is_sorted(in_index + begin, in_index + end)) {
      std::copy(in_index + begin, in_index + end, new_out + begin);
      std::copy(out_index + begin, out_index + end, new_in + begin);
      return;
    }
    // Through one tap an input feeds at most one output, so a table over the inputs sorts the
    // pairs.
    std::vector<int32_t>& output = out_of_input[static_cast<size_t>(worker)];
    output.assign(static_cast<size_t>(num_in), kNoRow);
    for (int64_t p = begin; p < end; ++p) output[static_cast<size_t>(in_index[p])] = out_index[p];
    int64_t next = begin;
    for (int64_t input = 0; input < num_in; ++input) {
      const int32_t row = output[static_cast<size_t>(input)];
      if (row < 0) continue;
      new_in[next] = row;
      new_out[next++] = static_cast<int32_t>(input);
    }
    TSL_CHECK(next == end, ValueError,
              "transpose_pairs: in_index must name an input once per tap, ", "got ", end - next,
              " repeats in tap ", tap, ". Pass the pairs of a kernel map.");
  });
}

void table_of_pairs(const CheckedPairs& pairs, const NeighborArrays& out, int threads) {
  std::vector<int64_t> tap_ptr(static_cast<size_t>(pairs.kernel_volume) + 1);
  for_each(pairs.kernel_volume + 1, threads, WriteTapBegins{pairs, tap_ptr.data()});
  const PairsView taps{pairs.in_index, pairs.out_index, tap_ptr.data(), pairs.num_pairs,
                       pairs.kernel_volume};
  std::fill(out.mask, out.mask + pairs.num_out * out.words, 0u);
  for_each(taps.used(), threads, MarkPairs{pairs, taps, out});
  for_each(pairs.num_out + 1, threads, CountNeighbors{out, pairs.num_out});
  std::exclusive_scan(out.ptr, out.ptr + pairs.num_out + 1, out.ptr, int64_t{0});
  for_each(taps.used(), threads, WritePairs{pairs, taps, out});
}

void tile_pairs(const int32_t* out_index, const int64_t* tap_ptr, int kernel_volume,
                int64_t tile_rows, int64_t num_tiles, int64_t* tile_ptr, int threads) {
  parallel_tasks(kernel_volume, threads, [&](int64_t tap, int) {
    const int32_t* const begin = out_index + tap_ptr[tap];
    const int32_t* const end = out_index + tap_ptr[tap + 1];
    const int32_t* pair = begin;
    for (int64_t tile = 0; tile <= num_tiles; ++tile) {
      pair = std::lower_bound(pair, end, tile * tile_rows);
      tile_ptr[tile * kernel_volume + tap] = tap_ptr[tap] + (pair - begin);
    }
  });
}

}  // namespace tsl::cpu
