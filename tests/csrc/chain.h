// SPDX-License-Identifier: MIT
// All passes of an inference, one after the other: points, voxels, a pyramid, neighbours from its
// root down, pair lists and convolutions. Arrays have the size that is asked for, so that
// sanitizers see what is written outside.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "executor.h"
#include "kernels/coarsen.h"
#include "kernels/implicit_gemm.h"
#include "kernels/neighbors_descend.h"
#include "kernels/neighbors_search.h"
#include "kernels/pair_table.h"
#include "kernels/pairs.h"
#include "kernels/row_order.h"
#include "kernels/segment_reduce.h"
#include "kernels/unique_coords.h"
#include "maps.h"
#include "reductions.h"
#include "tensor_cores.h"
#include "warp_block.h"

namespace tsl::test {

constexpr int kSteps = 3;      // of the pyramid
constexpr int kChannels = 32;  // in and out
constexpr int64_t kTileRows = 16;

inline const ConvGeometry kCube = cubic(3, 1, 1, 1);
inline const ConvGeometry kHalving = cubic(2, 2, 1, 0);

/// Rubbish that is no index of any array.
template <class T>
std::vector<T> unset(int64_t size) {
  std::vector<T> values(static_cast<size_t>(size));
  if (size > 0) std::memset(static_cast<void*>(values.data()), 0x6b, values.size() * sizeof(T));
  return values;
}

/// Both views of a kernel map, and the transposed lists.
struct MapArrays {
  std::vector<uint32_t> mask;
  std::vector<int64_t> ptr;
  std::vector<int32_t> rows, in_index, out_index, back_in, back_out, order;
  std::vector<int64_t> tap_ptr, tile_ptr;
  int volume = 0;
  int64_t num_out = 0;

  NeighborTable table() const { return {mask.data(), ptr.data(), rows.data(), 1}; }
};

struct LevelArrays {
  Coords coords;
  std::vector<int32_t> parent, child_ptr;
  std::vector<uint8_t> child_mask;
  MapArrays cube;     // to itself
  MapArrays halving;  // to the next level
};

/// What is asked for, in the order of the calls: capacities of results, or their sizes.
using Sizes = std::vector<int64_t>;

/// A whole inference. Without capacities it notes the sizes.
class Chain {
 public:
  Chain(const Coords& points, const std::vector<BFloat16>& feats, const Sizes* capacities)
      : points_(points), feats_(feats), capacities_(capacities) {
    levels.reserve(kSteps + 1);
    voxelize();
    for (int step = 0; step < kSteps; ++step) halve(levels[static_cast<size_t>(step)]);
    search(levels.back().coords, levels.back().coords, kCube, &levels.back().cube);
    for (size_t step = kSteps; step-- > 0;) descend(levels[step], levels[step + 1]);
    for (size_t step = 0; step < kSteps; ++step) {
      search(levels[step + 1].coords, levels[step].coords, kHalving, &levels[step].halving);
    }
    for (LevelArrays& level : levels) derive(&level.cube, size_of(level.coords));
    for (size_t step = 0; step < kSteps; ++step) {
      derive(&levels[step].halving, size_of(levels[step].coords));
    }
    out = convolved(voxel_feats, levels[0].cube);
    halved_out = convolved(out, levels[0].halving);
  }

  std::vector<int64_t> point_to_voxel, order, ptr;
  std::vector<LevelArrays> levels;
  std::vector<BFloat16> voxel_feats, out, halved_out;
  Sizes sizes;
  int32_t overflow = 0;

 private:
  /// run(executor) of an operator whose result has a size that the data decide.
  template <class Run>
  void sized(const Run& run) {
    Executor executor(2);
    if (capacities_) executor.set_capacity(at(*capacities_, sizes.size()), &overflow);
    run(executor);
    CHECK_EQ(executor.waits(), capacities_ ? 0 : 1);
  }

  void voxelize() {
    const int64_t count = size_of(points_);
    point_to_voxel = unset<int64_t>(count);
    order = unset<int64_t>(count);
    LevelArrays level;
    const auto allocate = [&](int64_t groups, UniqueArrays* to) {
      level.coords = unset<Coord>(groups);
      ptr = unset<int64_t>(groups + 1);
      to->voxels = level.coords.data();
      to->ptr = ptr.data();
    };
    sized([&](Executor& executor) {
      unique_coords(executor, points_.data(), count,
                    UniqueArrays{point_to_voxel.data(), order.data(), nullptr, nullptr}, allocate);
    });
    const int64_t voxels = size_of(level.coords);
    sizes.push_back(voxels);
    levels.push_back(std::move(level));
    voxel_feats = unset<BFloat16>(voxels * kChannels);
    Executor executor(2);
    segment_reduce<1>(executor, SegmentReduce<BFloat16>{feats_.data(), order.data(), ptr.data(),
                                                        voxel_feats.data(), nullptr, count, count,
                                                        voxels, kChannels, Reduce::kMean});
  }

  void halve(LevelArrays& level) {
    const int64_t count = size_of(level.coords);
    level.parent = unset<int32_t>(count);
    LevelArrays next;
    const auto allocate = [&](int64_t cells, CoarsenedArrays* to) {
      next.coords = unset<Coord>(cells);
      level.child_ptr = unset<int32_t>(cells + 1);
      level.child_mask = unset<uint8_t>(cells);
      *to = {to->parent, next.coords.data(), level.child_ptr.data(), level.child_mask.data()};
    };
    sized([&](Executor& executor) {
      coarsen(executor, level.coords.data(), count,
              CoarsenedArrays{level.parent.data(), nullptr, nullptr, nullptr}, allocate);
    });
    sizes.push_back(size_of(next.coords));
    levels.push_back(std::move(next));
  }

  /// run(executor, arrays, allocate) fills a table.
  template <class Run>
  void fill(MapArrays* map, int64_t num_out, int volume, const Run& run) {
    map->volume = volume;
    map->num_out = num_out;
    map->mask = unset<uint32_t>(num_out);
    map->ptr = unset<int64_t>(num_out + 1);
    const auto allocate = [&](int64_t pairs, NeighborArrays* to) {
      map->rows = unset<int32_t>(pairs);
      to->rows = map->rows.data();
    };
    sized([&](Executor& executor) {
      run(executor, NeighborArrays{map->mask.data(), map->ptr.data(), nullptr, 1}, allocate);
    });
    sizes.push_back(size_of(map->rows));
  }

  void search(const Coords& coarse, const Coords& fine, const ConvGeometry& g, MapArrays* map) {
    const OwnedHashTable table(fine);
    const WindowSearch search{coarse.data(), table.view, g, false};
    fill(map, size_of(coarse), g.kernel_volume(),
         [&](Executor& executor, const NeighborArrays& to, const auto& allocate) {
           neighbors_search(executor, search, size_of(coarse), to, allocate);
         });
  }

  void descend(LevelArrays& level, const LevelArrays& above) {
    const int64_t children = size_of(level.coords);
    const DescentCells cells{above.cube.table(),       level.child_ptr.data(),
                             level.child_mask.data(),  size_of(level.child_mask),
                             size_of(above.cube.rows), children};
    fill(&level.cube, children, kDescentTaps,
         [&](Executor& executor, const NeighborArrays& to, const auto& allocate) {
           neighbors_descend(executor, cells, to, allocate);
         });
  }

  void derive(MapArrays* map, int64_t num_in) const {
    const int64_t pairs = size_of(map->rows);
    for (auto* index : {&map->in_index, &map->out_index, &map->back_in, &map->back_out}) {
      *index = unset<int32_t>(pairs);
    }
    map->tap_ptr = unset<int64_t>(map->volume + 1);
    map->order = unset<int32_t>(map->num_out);
    const int64_t tiles = (map->num_out + kTileRows - 1) / kTileRows;
    map->tile_ptr = unset<int64_t>((tiles + 1) * map->volume);
    Executor executor(2);
    pairs_by_tap(executor, map->table(), map->num_out, pairs, map->volume,
                 PairLists{map->in_index.data(), map->out_index.data(), map->tap_ptr.data()});
    const PairsView view{map->in_index.data(), map->out_index.data(), map->tap_ptr.data(), pairs,
                         map->volume};
    transpose_pairs(executor, view, num_in, map->back_in.data(), map->back_out.data());
    executor.for_each(size_of(map->tile_ptr), TilePairs{view, kTileRows, map->tile_ptr.data()});
    order_rows(executor, map->table(), map->tap_ptr.data(), map->volume, map->num_out, 64,
               map->order.data());
    check_table_of_lists(executor, *map, num_in);
    CHECK_EQ(executor.waits(), 0);
  }

  static void check_table_of_lists(Executor& executor, const MapArrays& map, int64_t num_in) {
    const int64_t tiles = size_of(map.tile_ptr) / map.volume - 1;
    const CheckedPairs lists{map.in_index.data(), map.out_index.data(),
                             map.tile_ptr.data(), map.tile_ptr.data() + tiles * map.volume,
                             size_of(map.rows),   num_in,
                             map.num_out,         map.volume};
    const NeighborTable found = table_of_pairs(executor, lists);
    CHECK(std::equal(map.mask.begin(), map.mask.end(), found.mask));
    CHECK(std::equal(map.ptr.begin(), map.ptr.end(), found.ptr));
    CHECK(std::equal(map.rows.begin(), map.rows.begin() + map.ptr.back(), found.rows));
  }

  static std::vector<BFloat16> convolved(const std::vector<BFloat16>& from, const MapArrays& map) {
    using Tile = TileShape<1, 1>;
    const std::vector<BFloat16> weight =
        seeded_values<BFloat16>(191, int64_t{map.volume} * kChannels * kChannels);
    const FragmentLayout layout = FragmentLayout::of<BFloat16>(kChannels, kChannels);
    std::vector<Words4> packed(static_cast<size_t>(layout.size(map.volume)));
    const PackWeight<BFloat16> pack{weight.data(), map.volume, kChannels,    kChannels,
                                    false,         false,      packed.data()};
    for (int64_t i = 0; i < size_of(packed); ++i) pack(i);
    Aligned<BFloat16> feats(from);
    Aligned<BFloat16> to(unset<BFloat16>(map.num_out * kChannels));
    ImplicitGemm<BFloat16> gemm{};
    gemm.tables[0] = {map.table(), size_of(map.rows), map.volume, size_of(from) / kChannels};
    gemm.num_tables = gemm.num_parts = 1;
    gemm.parts[0] = {0, kChannels, feats.data(), packed.data()};
    gemm.order = map.order.data();
    gemm.num_out = map.num_out;
    gemm.out.out = to.data();
    gemm.out.channels = kChannels;
    gemm.out.relu = true;
    for (int64_t tile = 0; tile < Tile::row_tiles(map.num_out); ++tile) {
      WarpBlock block(Tile::kWarps, false);
      ImplicitGemmTile<BFloat16, Tile, WarpBlock>(block, gemm, tile, 0).run();
    }
    return to.values();
  }

  const Coords& points_;
  const std::vector<BFloat16>& feats_;
  const Sizes* capacities_;
};

}  // namespace tsl::test
