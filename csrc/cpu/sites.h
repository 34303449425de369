// SPDX-License-Identifier: MIT
// Which sites a convolution writes, on the CPU. Results are unique and in Morton order.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_geometry.h"

namespace tsl::cpu {

/// How a strided convolution chooses its output sites.
enum class StrideRule {
  kFull,  // every coarse site whose window holds an input (dense convolution, spconv, fVDB)
  kCell,  // one coarse site per occupied cell floor(fine / stride) (MinkowskiEngine)
};

struct Sites {
  std::vector<Coord> coords;
  bool all_in_range;  // false: the kernel reached a site that no coordinate can name
};

/// Sites outside [0, shape) are left out where `shape` is given.
Sites coarse_sites(const Coord* fine, int64_t count, const ConvGeometry& geometry, StrideRule rule,
                   const int64_t* shape, int threads);

/// Every fine site that the kernel reaches from a coarse one (generative transposed convolution).
Sites fine_sites(const Coord* coarse, int64_t count, const ConvGeometry& geometry,
                 const int64_t* shape, int threads);

}  // namespace tsl::cpu
