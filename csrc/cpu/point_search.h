// SPDX-License-Identifier: MIT
// Sampling and neighbour search on the CPU: the results of kernels/point_search.h, several points
// at a time.
#pragma once

#include <cstdint>

#include "cpu/memory.h"
#include "kernels/point_search_passes.h"

namespace tsl::cpu {

/// Rows of x, y, z taken apart, so that neighbours in memory are points of one cloud. The entries
/// of `order` and `ptr` have been checked.
template <class T>
class PackedClouds {
 public:
  explicit PackedClouds(const CloudRows<T>& clouds)
      : clouds_(clouds), axes_(3 * clouds.num_places) {
    const TakeApart<T> take_apart{clouds, axis(0), axis(1), axis(2)};
    for (int64_t place = 0; place < clouds.num_places; ++place) take_apart(place);
  }

  Clouds<T> view() const { return {axis(0), axis(1), axis(2), clouds_.order, clouds_.ptr}; }

 private:
  T* axis(int64_t number) const { return axes_.data() + number * clouds_.num_places; }

  CloudRows<T> clouds_;
  Scratch<T> axes_;
};

/// `search.distance` is scratch; threads own clouds.
template <class T>
void furthest_points(const FurthestPoints<T>& search, int64_t num_clouds, int threads);

/// Threads own queries, here and below.
template <class T>
void ball_query(const BallQuery<T>& search, int64_t num_queries, int threads);

template <class T>
void nearest_points(const NearestPoints<T>& search, int64_t num_queries, int threads);

}  // namespace tsl::cpu
