// SPDX-License-Identifier: MIT
// Sampling and neighbour search on the CPU: the results of kernels/point_search.h, several points
// at a time.
#pragma once

#include <cstdint>

#include "cpu/memory.h"
#include "kernels/point_search.h"

namespace tsl::cpu {

/// Rows of x, y, z taken apart, so that neighbours in memory are points of one cloud.
template <class T>
class PackedClouds {
 public:
  PackedClouds(const T* xyz, const int64_t* order, const int64_t* ptr, int64_t count)
      : axes_(3 * count), order_(order), ptr_(ptr), count_(count) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t axis = 0; axis < 3; ++axis) {
        axes_.data()[axis * count + i] = xyz[3 * order[i] + axis];
      }
    }
  }

  Clouds<T> view() const {
    const T* const x = axes_.data();
    return {x, x + count_, x + 2 * count_, order_, ptr_};
  }

 private:
  Scratch<T> axes_;
  const int64_t* order_;
  const int64_t* ptr_;
  int64_t count_;
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
