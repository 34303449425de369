// SPDX-License-Identifier: MIT
// Which points of a cloud stand for it, and which are near a place: the plain specification.
//
//   furthest points: the first row, then again and again the row that is furthest from all chosen,
//                    each once
//   ball query:      the first rows, in order, that are nearer than a radius
//   nearest:         the nearest rows, in order of distance
// Of equal distances the lower row comes first. An item is one cloud (furthest points) or one
// query, and looks at every point of its cloud. Memory: a distance per point (furthest points).
#pragma once

#include <cstdint>
#include <limits>

#include "core/macros.h"

namespace tsl {

constexpr int64_t kNoPoint = -1;  // in place of a neighbour that there is none of

template <class T>
constexpr T kInfinitelyFar = std::numeric_limits<T>::infinity();

template <class T>
struct Position {
  T x, y, z;
};

/// Points of several clouds, cloud after cloud: place i in [ptr[c], ptr[c + 1]) belongs to cloud c
/// and is row order[i] of the caller, ascending inside a cloud.
template <class T>
struct Clouds {
  const T* x;
  const T* y;
  const T* z;
  const int64_t* order;
  const int64_t* ptr;

  TSL_HOST_DEVICE T squared_distance(int64_t i, const Position<T>& from) const {
    const T dx = x[i] - from.x;
    const T dy = y[i] - from.y;
    const T dz = z[i] - from.z;
    return dx * dx + dy * dy + dz * dz;
  }

  TSL_HOST_DEVICE Position<T> position(int64_t i) const { return {x[i], y[i], z[i]}; }
};

/// Positions and the clouds in which each of them looks.
template <class T>
struct Queries {
  const T* xyz;          // (num_queries, 3)
  const int64_t* cloud;  // (num_queries,)

  TSL_HOST_DEVICE Position<T> position(int64_t q) const {
    return {xyz[3 * q], xyz[3 * q + 1], xyz[3 * q + 2]};
  }
};

/// Samples of cloud c go to [sample_ptr[c], sample_ptr[c + 1]); at most one per point.
template <class T>
struct FurthestPoints {
  Clouds<T> clouds;
  const int64_t* sample_ptr;
  T* distance;       // a number per point: squared, to the nearest sample so far
  int64_t* samples;  // rows

  TSL_HOST_DEVICE void operator()(int64_t cloud) const {
    const int64_t begin = clouds.ptr[cloud];
    const int64_t end = clouds.ptr[cloud + 1];
    for (int64_t i = begin; i < end; ++i) distance[i] = kInfinitelyFar<T>;
    int64_t chosen = begin;
    for (int64_t s = sample_ptr[cloud]; s < sample_ptr[cloud + 1]; ++s) {
      samples[s] = clouds.order[chosen];
      distance[chosen] = -1;  // points may coincide, and none is taken twice
      const Position<T> from = clouds.position(chosen);
      T furthest = -1;
      for (int64_t i = begin; i < end; ++i) {
        const T d = clouds.squared_distance(i, from);
        if (d < distance[i]) distance[i] = d;
        if (distance[i] > furthest) {
          furthest = distance[i];
          chosen = i;
        }
      }
    }
  }
};

/// Up to `count` rows; what is left over repeats the first of them, or is kNoPoint.
template <class T>
struct BallQuery {
  Clouds<T> clouds;
  Queries<T> queries;
  T radius;
  int64_t count;
  int64_t* index;  // (num_queries, count)

  TSL_HOST_DEVICE void operator()(int64_t query) const {
    const Position<T> center = queries.position(query);
    const int64_t cloud = queries.cloud[query];
    int64_t* const rows = index + query * count;
    int64_t found = 0;
    for (int64_t i = clouds.ptr[cloud]; i < clouds.ptr[cloud + 1] && found < count; ++i) {
      if (clouds.squared_distance(i, center) < radius * radius) rows[found++] = clouds.order[i];
    }
    fill(rows, found);
  }

  TSL_HOST_DEVICE void fill(int64_t* rows, int64_t found) const {
    for (int64_t n = found; n < count; ++n) rows[n] = found > 0 ? rows[0] : kNoPoint;
  }
};

/// `count` rows and their squared distances; what is left over is kNoPoint, at infinity.
template <class T>
struct NearestPoints {
  Clouds<T> clouds;
  Queries<T> queries;
  int64_t count;
  int64_t* index;  // (num_queries, count)
  T* distance;     // (num_queries, count)

  TSL_HOST_DEVICE void operator()(int64_t query) const {
    const Position<T> center = queries.position(query);
    const int64_t cloud = queries.cloud[query];
    clear(query);
    for (int64_t i = clouds.ptr[cloud]; i < clouds.ptr[cloud + 1]; ++i) {
      offer(query, i, clouds.squared_distance(i, center));
    }
  }

  TSL_HOST_DEVICE void clear(int64_t query) const {
    for (int64_t n = query * count; n < (query + 1) * count; ++n) {
      index[n] = kNoPoint;
      distance[n] = kInfinitelyFar<T>;
    }
  }

  /// Puts place i behind all that are as near; places are offered in ascending order.
  TSL_HOST_DEVICE void offer(int64_t query, int64_t i, T d) const {
    int64_t* const rows = index + query * count;
    T* const distances = distance + query * count;
    int64_t n = count;
    while (n > 0 && (rows[n - 1] == kNoPoint || d < distances[n - 1])) {
      --n;
      if (n + 1 < count) {
        rows[n + 1] = rows[n];
        distances[n + 1] = distances[n];
      }
    }
    if (n == count) return;
    rows[n] = clouds.order[i];
    distances[n] = d;
  }
};

}  // namespace tsl
