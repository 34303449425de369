// SPDX-License-Identifier: MIT
// Implicit GEMM on the CPU: packed weights, the order of the rows, and all tiles of a sum of
// convolutions, run by a block of the CPU.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "convolutions.h"
#include "executor.h"
#include "kernels/implicit_gemm.h"
#include "kernels/row_order.h"
#include "maps.h"
#include "numbers.h"
#include "tensor_cores.h"
#include "warp_block.h"

namespace tsl::test {

constexpr int64_t kBlockRows = 64;

template <class S>
std::vector<Words4> packed(const std::vector<S>& weight, const Problem<S>& p,
                           bool transposed = false, bool mirrored = false) {
  const FragmentLayout layout = FragmentLayout::of<S>(p.shape.cin, p.shape.cout);
  std::vector<Words4> words(static_cast<size_t>(layout.size(p.map.kernel_volume)));
  const PackWeight<S> pack{weight.data(), p.map.kernel_volume, p.shape.cin,
                           p.shape.cout,  transposed,          mirrored,
                           words.data()};
  for (int64_t i = 0; i < size_of(words); ++i) pack(i);
  return words;
}

inline std::vector<int32_t> order_of(const Map& map) {
  const OwnedTable table = table_of(map.pairs, map.num_out, map.kernel_volume);
  const OwnedPairs lists = pairs_of(map.pairs, map.num_out, map.kernel_volume, kBlockRows);
  std::vector<int32_t> order(static_cast<size_t>(map.num_out), -5);
  Executor executor(2);
  order_rows(executor, table.view(), lists.tap_ptr.data(), map.kernel_volume, map.num_out,
             kBlockRows, order.data());
  CHECK_EQ(executor.waits(), 0);
  return order;
}

/// The table of a map; the arrays belong to `owned`.
inline GemmTable gemm_table(const OwnedTable& owned, const Map& map) {
  return {owned.view(), size_of(map.pairs), map.kernel_volume, map.num_in};
}

template <class Shape, class S>
void run_tiles(const ImplicitGemm<S>& gemm, bool backwards) {
  for (int64_t row_tile = 0; row_tile < Shape::row_tiles(gemm.num_out); ++row_tile) {
    for (int tile = 0; tile < Shape::channel_tiles(gemm.out.channels); ++tile) {
      WarpBlock block(Shape::kWarps, backwards);
      ImplicitGemmTile<S, Shape, WarpBlock>(block, gemm, row_tile, tile).run();
    }
  }
}

/// run(shape tag)
template <class Run, class... Shapes>
void for_tile_shapes(const Run& run, std::tuple<Shapes...>) {
  (run(Shapes{}), ...);
}

}  // namespace tsl::test
