// SPDX-License-Identifier: MIT
#include "cpu/neighbors.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "core/descent.h"
#include "cpu/parallel.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kSearchBlock = 512;

/// Counts in ptr[1..] become offsets.
void accumulate(int64_t* ptr, int64_t count) {
  ptr[0] = 0;
  for (int64_t i = 0; i < count; ++i) ptr[i + 1] += ptr[i];
}

/// Turns a tap into a step of the packed key, with a slow path for sites near the end of the range.
class TapProbe {
 public:
  explicit TapProbe(const ConvGeometry& geometry) : geometry_(geometry) {
    const int volume = geometry.kernel_volume();
    steps_.reserve(static_cast<size_t>(volume));
    taps_.reserve(static_cast<size_t>(volume));
    for (int k = 0; k < volume; ++k) {
      const Tap tap = geometry.tap(k);
      taps_.push_back(tap);
      steps_.push_back(packed_key_step(geometry.fine_axis(0, 0, tap.x),
                                       geometry.fine_axis(1, 0, tap.y),
                                       geometry.fine_axis(2, 0, tap.z)));
    }
  }

  /// The window of one coarse site.
  struct Window {
    const TapProbe* probe;
    Coord coarse;
    uint64_t key;    // packed key of the fine site at tap offset zero, if the window is interior
    bool interior;   // no tap leaves the range

    /// False when the tap's fine site is out of range.
    bool key_at(int tap, uint64_t* fine_key) const {
      const size_t t = static_cast<size_t>(tap);
      if (interior) {
        *fine_key = key + probe->steps_[t];
        return true;
      }
      Coord fine;
      if (!probe->geometry_.fine_from_coarse(coarse, probe->taps_[t], &fine)) return false;
      *fine_key = packed_key(fine);
      return true;
    }
  };

  Window window(const Coord& coarse) const {
    Coord low;
    Coord high;
    const ConvGeometry& g = geometry_;
    const Tap last{g.kernel_size[0] - 1, g.kernel_size[1] - 1, g.kernel_size[2] - 1};
    const bool interior = g.fine_from_coarse(coarse, Tap{0, 0, 0}, &low) &&
                          g.fine_from_coarse(coarse, last, &high);
    const uint64_t key = interior ? packed_key(low) - steps_.front() : 0;
    return Window{this, coarse, key, interior};
  }

 private:
  ConvGeometry geometry_;
  std::vector<uint64_t> steps_;
  std::vector<Tap> taps_;
};

struct BlockParts : std::array<BlockPart, kDescentTaps> {
  BlockParts() {
    for (int tap = 0; tap < kDescentTaps; ++tap) (*this)[static_cast<size_t>(tap)] = block_part(tap);
  }
};

struct ChildBlocks : std::array<uint64_t, 256> {
  ChildBlocks() {
    for (uint32_t mask = 0; mask < 256; ++mask) (*this)[mask] = block_from_children(mask);
  }
};

const BlockParts kBlockParts;
const ChildBlocks kChildBlocks;

/// visit(part, neighbour cell) for the up to 27 neighbours of `cell`, itself included.
template <class Visit>
void for_each_part(const Descent& descent, int64_t cell, const Visit& visit) {
  descent.cells.for_each(cell, [&](int tap, int32_t neighbor) {
    visit(kBlockParts[static_cast<size_t>(tap)], neighbor);
  });
}

}  // namespace

void HashSearch::count(uint32_t* mask, int64_t* ptr, int threads) const {
  const TapProbe probe(geometry);
  const int volume = geometry.kernel_volume();
  const int words = mask_words(volume);
  std::fill(mask, mask + num_coarse * words, 0u);
  const auto set = [&](int64_t row, int tap) {
    uint32_t* const word = mask + row * words + tap / kMaskBits;
    const uint32_t bit = 1u << (tap % kMaskBits);
    if (threads > 1 && is_symmetric) {
      atomic_or(word, bit);
    } else {
      *word |= bit;
    }
  };
  const int centre = volume / 2;
  const int probed = is_symmetric ? centre : volume;
  const int64_t blocks = (num_coarse + kSearchBlock - 1) / kSearchBlock;
  parallel_tasks(blocks, threads, [&](int64_t block, int) {
    const int64_t end = std::min(num_coarse, (block + 1) * kSearchBlock);
    for (int64_t row = block * kSearchBlock; row < end; ++row) {
      const TapProbe::Window window = probe.window(coarse[row]);
      if (is_symmetric) set(row, centre);
      for (int tap = 0; tap < probed; ++tap) {
        uint64_t key;
        if (!window.key_at(tap, &key)) continue;
        const int32_t found = fine.find(key);
        if (found < 0) continue;
        set(row, tap);
        if (is_symmetric) set(found, volume - 1 - tap);
      }
    }
  });
  tsl::cpu::for_each(num_coarse, threads, [&](int64_t row) {
    int64_t neighbors = 0;
    for (int w = 0; w < words; ++w) neighbors += count_bits(mask[row * words + w]);
    ptr[row + 1] = neighbors;
  });
  accumulate(ptr, num_coarse);
}

void HashSearch::fill(const uint32_t* mask, const int64_t* ptr, int32_t* rows, int threads) const {
  const TapProbe probe(geometry);
  const int volume = geometry.kernel_volume();
  const NeighborTable table{mask, ptr, rows, mask_words(volume)};
  const int centre = volume / 2;
  const int64_t blocks = (num_coarse + kSearchBlock - 1) / kSearchBlock;
  parallel_tasks(blocks, threads, [&](int64_t block, int) {
    const int64_t end = std::min(num_coarse, (block + 1) * kSearchBlock);
    for (int64_t row = block * kSearchBlock; row < end; ++row) {
      const TapProbe::Window window = probe.window(coarse[row]);
      int64_t next = ptr[row];
      for (int w = 0; w < table.words; ++w) {
        for (uint32_t bits = mask[row * table.words + w]; bits; bits &= bits - 1, ++next) {
          const int tap = w * kMaskBits + lowest_bit(bits);
          if (is_symmetric && tap > centre) continue;  // written by its mirror image
          uint64_t key = 0;
          window.key_at(tap, &key);
          const int32_t found = fine.find(key);
          rows[next] = found;
          if (is_symmetric && tap < centre) {
            rows[ptr[found] + table.rank(found, volume - 1 - tap)] = static_cast<int32_t>(row);
          }
        }
      }
    }
  });
}

void Descent::count(uint32_t* mask, int64_t* ptr, int threads) const {
  tsl::cpu::for_each(num_cells, threads, [&](int64_t cell) {
    uint64_t block = 0;
    for_each_part(*this, cell, [&](const BlockPart& part, int32_t neighbor) {
      block |= part.place(kChildBlocks[child_mask[neighbor]]);
    });
    int32_t child = child_ptr[cell];
    for (uint32_t octants = child_mask[cell]; octants; octants &= octants - 1, ++child) {
      const uint32_t taps = taps_from_window(block >> window_shift(lowest_bit(octants)));
      mask[child] = taps;
      ptr[child + 1] = count_bits(taps);
    }
  });
  accumulate(ptr, child_ptr[num_cells]);
}

void Descent::fill(const uint32_t* mask, const int64_t* ptr, int32_t* rows, int threads) const {
  tsl::cpu::for_each(num_cells, threads, [&](int64_t cell) {
    int32_t row_at[64];  // written where the block is occupied; nothing else is read
    for_each_part(*this, cell, [&](const BlockPart& part, int32_t neighbor) {
      int32_t row = child_ptr[neighbor];
      for (uint64_t bits = kChildBlocks[child_mask[neighbor]]; bits; bits &= bits - 1, ++row) {
        const uint64_t bit = part.place(bits & (~bits + 1));
        if (bit) row_at[lowest_bit(bit)] = row;
      }
    });
    int32_t child = child_ptr[cell];
    for (uint32_t octants = child_mask[cell]; octants; octants &= octants - 1, ++child) {
      const int shift = window_shift(lowest_bit(octants));
      int64_t next = ptr[child];
      for (uint32_t taps = mask[child]; taps; taps &= taps - 1) {
        const int tap = lowest_bit(taps);
        rows[next++] = row_at[shift + 16 * (tap / 9) + 4 * (tap / 3 % 3) + tap % 3];
      }
    }
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
    // Through one tap an input feeds at most one output, so a table over the inputs sorts the pairs.
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
  });
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
