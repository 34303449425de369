// SPDX-License-Identifier: MIT
// Sampling and neighbour search on the GPU: the passes of kernels/point_search_passes.h, launched
// on the caller's stream. Rows and distances are those of the CPU to the last bit.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "kernels/point_search_passes.h"

namespace tsl::cuda {

/// `search` lacks its clouds and its distances.
template <class T>
void furthest_points(const Call& call, const CloudRows<T>& clouds, const FurthestPoints<T>& search,
                     int64_t num_samples);

/// `search` is a BallQuery or a NearestPoints that lacks its clouds.
template <class T, template <class> class Search>
void search_points(const Call& call, const CloudRows<T>& clouds, const Search<T>& search,
                   int64_t num_queries);

}  // namespace tsl::cuda
