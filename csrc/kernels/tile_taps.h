// SPDX-License-Identifier: MIT
// Which rows a tile of implicit GEMM reads: for a word of the masks of a table,
//
//   each row writes the input row of each of its taps to shared memory, and its own number
//   a ballot for each tap tells the groups of 8 rows that have it
//   the taps that any row has are listed, for each part that reads the table; parts without a table
//   join the first list
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/hash_table.h"
#include "core/macros.h"
#include "core/neighbor_table.h"
#include "core/refuse.h"
#include "kernels/gemm_tile.h"
#include "kernels/warp_block.h"

namespace tsl {

template <class S, class Shape, class Block>
class TileTaps {
 public:
  TSL_HOST_DEVICE TileTaps(Block& block, const ImplicitGemm<S>& gemm, TileMemory<Shape>& memory,
                           int64_t first_row)
      : block_(block), gemm_(gemm), memory_(memory), first_row_(first_row) {}

  TSL_HOST_DEVICE void find(int table, int word) {
    find_rows(gemm_.tables[table], word);
    list_taps(table, word);
  }

 private:
  template <class T>
  using Registers = typename Block::template Registers<T>;

  TSL_HOST_DEVICE bool is_row(int row) const { return first_row_ + row < gemm_.num_out; }

  /// Input rows behind a word of the masks, and the groups of rows that have each of its taps.
  TSL_HOST_DEVICE void find_rows(const GemmTable& table, int word) {
    const int taps = table.taps_in(word);
    block_.warps([&](auto warp) {
      for (int rows32 = warp.index; rows32 < TileMemory<Shape>::kBallots; rows32 += Shape::kWarps) {
        Registers<uint32_t> bits;
        Registers<uint32_t> rows;
        warp.each([&](auto lane) {
          lane(bits) = write_rows(table, rows32 * kWarpLanes + lane.index, word);
          lane(rows) = 0;
        });
        for (int tap = 0; tap < taps; ++tap) {
          const uint32_t found =
              warp.ballot([&](auto lane) { return (lane(bits) >> tap & 1u) != 0; });
          warp.each([&](auto lane) { lane(rows) = lane.index == tap ? found : lane(rows); });
        }
        const uint32_t own =
            warp.ballot([&](auto lane) { return is_row(rows32 * kWarpLanes + lane.index); });
        warp.each([&](auto lane) {
          memory_.groups[lane.index][rows32] = groups_of(lane(rows));
          if (lane.index == 0) memory_.groups[kOwnRow][rows32] = groups_of(own);
        });
      }
    });
    block_.sync();
  }

  /// Fills a row of the table in shared memory; returns the bits of the taps that it has.
  TSL_HOST_DEVICE uint32_t write_rows(const GemmTable& table, int row, int word) const {
    const int32_t out_row = is_row(row) ? gemm_.order[first_row_ + row] : kNoRow;
    if (is_row(row) && (out_row < 0 || out_row >= gemm_.num_out)) {
      refuse_row("implicit_gemm: order must hold the output rows", first_row_ + row,
                 "Pass what order_rows returned.");
    }
    memory_.in_row[kOwnRow][row] = out_row;
    const NeighborTable& view = table.view;
    const int taps = table.taps_in(word);
    const bool has_mask = out_row != kNoRow && taps > 0;
    const uint32_t bits = has_mask ? view.mask[int64_t{out_row} * view.words + word] : 0;
    int64_t at = bits ? view.place(out_row, word * kMaskBits + lowest_bit(bits)) : 0;
    if (at < 0 || at + count_bits(bits) > table.num_pairs) {
      refuse_row("implicit_gemm: ptr must point into rows", out_row, "Pass arrays of one map.");
    }
    for (int tap = 0; tap < taps; ++tap) {
      const bool has_tap = (bits >> tap & 1u) != 0;
      const int32_t in_row = has_tap ? view.rows[at++] : kNoRow;
      if (has_tap && (in_row < 0 || in_row >= table.num_in)) {
        refuse_row("implicit_gemm: rows must be rows of the input", at - 1,
                   "Point at existing rows.");
      }
      memory_.in_row[tap][row] = in_row;
    }
    return bits;
  }

  /// Of 32 rows: bit g for rows 8 g to 8 g + 7.
  TSL_HOST_DEVICE static uint8_t groups_of(uint32_t rows) {
    uint32_t groups = 0;
    TSL_UNROLL
    for (int g = 0; g < kWarpLanes / kFragmentRows; ++g) {
      groups |= (rows >> (kFragmentRows * g) & 0xffu) != 0 ? 1u << g : 0u;
    }
    return static_cast<uint8_t>(groups);
  }

  TSL_HOST_DEVICE void list_taps(int table, int word) {
    block_.warps([&](auto warp) {
      if (warp.index > 0) return;
      const uint32_t used = warp.ballot([&](auto lane) {
        uint32_t groups = 0;
        for (uint8_t of_rows : memory_.groups[lane.index]) groups |= of_rows;
        return lane.index < gemm_.tables[table].taps_in(word) && groups != 0;
      });
      int count = 0;
      int steps = 0;
      for (int number = 0; number < gemm_.num_parts; ++number) {
        const GemmPart<S>& part = gemm_.parts[number];
        const bool is_own = part.table == kNoTable;
        const bool is_listed = is_own ? table == 0 && word == 0 : part.table == table;
        if (!is_listed) continue;
        const uint32_t listed = is_own ? 1u : used;
        warp.each([&](auto lane) {
          if (!(listed >> lane.index & 1u)) return;
          const int before = count_bits(listed & ((1u << lane.index) - 1u));
          memory_.taps[count + before] = {static_cast<uint8_t>(number),
                                          static_cast<uint8_t>(is_own ? kOwnRow : lane.index)};
        });
        count += count_bits(listed);
        steps += count_bits(listed) * part.channel_blocks();
      }
      warp.each([&](auto lane) {
        if (lane.index == 0) memory_.num_steps = steps;
      });
    });
    block_.sync();
  }

  Block& block_;
  const ImplicitGemm<S>& gemm_;
  TileMemory<Shape>& memory_;
  int64_t first_row_;
};

}  // namespace tsl
