// SPDX-License-Identifier: MIT
// Clouds of points and queries into them, for the tests of sampling and neighbour search.
#pragma once

#include <cstdint>
#include <vector>

#include "clouds.h"
#include "kernels/point_search.h"

namespace tsl::test {

/// Clouds of every size, some empty, at places of a coarse lattice: distances are exact and often
/// equal.
template <class T>
struct OwnedClouds {
  std::vector<T> x, y, z;
  std::vector<int64_t> order;
  std::vector<int64_t> ptr{0};

  OwnedClouds(uint64_t seed, const std::vector<int64_t>& sizes, int64_t extent) {
    Random random(seed);
    for (const int64_t size : sizes) {
      ptr.push_back(ptr.back() + size);
      for (int64_t i = 0; i < size; ++i) {
        for (std::vector<T>* const axis : {&x, &y, &z}) {
          axis->push_back(static_cast<T>(random.integer(-extent, extent)) / T(8));
        }
      }
    }
    // Rows of one cloud ascend, and those of all of them are interleaved.
    std::vector<int64_t> cloud_of;
    for (int64_t c = 0; c < count(); ++c) {
      cloud_of.insert(cloud_of.end(), static_cast<size_t>(at(sizes, c)), c);
    }
    random.shuffle(cloud_of);
    order.resize(x.size());
    std::vector<int64_t> next(ptr);
    for (int64_t row = 0; row < size_of(cloud_of); ++row) {
      at(order, at(next, at(cloud_of, row))++) = row;
    }
  }

  int64_t count() const { return size_of(ptr) - 1; }
  Clouds<T> view() const { return {x.data(), y.data(), z.data(), order.data(), ptr.data()}; }
};

/// Places on the lattice, and some beside it.
template <class T>
struct OwnedQueries {
  std::vector<T> xyz;
  std::vector<int64_t> cloud;

  OwnedQueries(uint64_t seed, int64_t count, int64_t num_clouds, int64_t extent) {
    Random random(seed);
    for (int64_t q = 0; q < count; ++q) {
      cloud.push_back(random.integer(0, num_clouds - 1));
      for (int axis = 0; axis < 3; ++axis) {
        xyz.push_back(static_cast<T>(random.integer(-2 * extent, 2 * extent)) / T(16));
      }
    }
  }

  Queries<T> view() const { return {xyz.data(), cloud.data()}; }
};

inline const std::vector<int64_t> kSizes{1, 0, 2, 63, 64, 65, 700, 1100, 0};

}  // namespace tsl::test
