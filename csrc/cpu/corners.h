// SPDX-License-Identifier: MIT
// Corners on the CPU: the results of kernels/corners.h. Points that follow on each other are mostly
// between the same voxels, which are then looked up once.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "kernels/corners.h"

namespace tsl::cpu {

template <class T>
void corners(const Corners<T>& corners, int64_t count, int threads) {
  const Blocks blocks(count, kMinBlock, threads);
  parallel_blocks(blocks, [&](int64_t block) {
    Coord last = kNowhere;
    int64_t rows[kCorners];
    corners.find(last, rows);
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
      const auto place = corners.locate(i);
      if (!(place.low == last)) corners.find(place.low, rows);
      last = place.low;
      corners.write(i, place, rows);
    }
  });
}

}  // namespace tsl::cpu
