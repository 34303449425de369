// SPDX-License-Identifier: MIT
// Sampling and neighbour search as passes. Nothing waits for the device.
//
//   all of them       check the clouds | take the rows of their points apart
//   ball query,       check the queries | an item is a query, kernels/point_search.h
//   nearest
//   furthest points   check what is asked for | clear the distances | an item is a cloud, and a
//                     block of threads works on it
// The samples of a cloud come one after the other. For each, every thread lowers the distances of
// its own places, one in as many as there are threads, and keeps the furthest of them. The furthest
// of all threads is the next sample: of equal distances the lowest place, so it does not matter in
// which order the threads are compared, and the rows are those of FurthestPoints.
//
// Memory: three numbers a place; for furthest points four.
#pragma once

#include <cstdint>
#include <limits>

#include "core/macros.h"
#include "core/refuse.h"
#include "kernels/passes.h"
#include "kernels/point_search.h"

namespace tsl {

/// Clouds as the caller has them; `order` and `ptr` as in Clouds.
template <class T>
struct CloudRows {
  const T* xyz;          // (num_points, 3)
  const int64_t* order;  // (num_places,)
  const int64_t* ptr;    // (num_clouds + 1,)
  int64_t num_points;
  int64_t num_places;
  int64_t num_clouds;
};

/// Refuses a ptr that does not cut the places into clouds; an item is an entry.
template <class T>
struct CheckClouds {
  CloudRows<T> clouds;

  TSL_HOST_DEVICE void operator()(int64_t entry) const {
    const int64_t begin = clouds.ptr[entry];
    const bool is_first = entry == 0;
    const bool is_last = entry == clouds.num_clouds;
    if (begin < (is_first ? 0 : clouds.ptr[entry - 1]) || (is_first && begin > 0) ||
        (is_last && begin != clouds.num_places)) {
      refuse_row("point_search: ptr must ascend from 0 to the length of order", entry,
                 "Give where each cloud begins, and the end.");
    }
  }
};

/// An item is a place.
template <class T>
struct TakeApart {
  CloudRows<T> clouds;
  T* x;
  T* y;
  T* z;

  TSL_HOST_DEVICE void operator()(int64_t place) const {
    const int64_t row = clouds.order[place];
    if (row < 0 || row >= clouds.num_points) {
      refuse_row("point_search: order must be rows of xyz", place, "Point at existing rows.");
    }
    x[place] = clouds.xyz[3 * row];
    y[place] = clouds.xyz[3 * row + 1];
    z[place] = clouds.xyz[3 * row + 2];
  }
};

template <class Executor, class T>
Clouds<T> take_apart(Executor& executor, const CloudRows<T>& clouds) {
  const int64_t count = clouds.num_places;
  const auto [x, y, z] = scratch<T, T, T>(executor, {count, count, count});
  executor.for_each(clouds.num_clouds + 1, CheckClouds<T>{clouds});
  executor.for_each(count, TakeApart<T>{clouds, x, y, z});
  return {x, y, z, clouds.order, clouds.ptr};
}

/// Refuses a query that looks in a cloud that there is none of.
struct CheckQueries {
  const int64_t* cloud;
  int64_t num_clouds;

  TSL_HOST_DEVICE void operator()(int64_t query) const {
    if (cloud[query] < 0 || cloud[query] >= num_clouds) {
      refuse_row("point_search: query_cloud must be clouds", query, "Point at existing clouds.");
    }
  }
};

/// `search` is a BallQuery or a NearestPoints; its clouds are filled in.
template <class Executor, class T, class Search>
void search_points(Executor& executor, const CloudRows<T>& clouds, Search search,
                   int64_t num_queries) {
  search.clouds = take_apart(executor, clouds);
  executor.for_each(num_queries, CheckQueries{search.queries.cloud, clouds.num_clouds});
  executor.for_each(num_queries, search);
}

/// Refuses samples that a cloud has no points for; an item is a cloud, and one item more.
template <class T>
struct CheckSamples {
  CloudRows<T> clouds;
  const int64_t* sample_ptr;
  int64_t num_samples;

  TSL_HOST_DEVICE void operator()(int64_t cloud) const {
    const int64_t begin = sample_ptr[cloud];
    const bool is_end = cloud == clouds.num_clouds;
    const int64_t wanted = is_end ? 0 : sample_ptr[cloud + 1] - begin;
    const int64_t there = is_end ? 0 : clouds.ptr[cloud + 1] - clouds.ptr[cloud];
    if ((cloud == 0 && begin != 0) || (is_end && begin != num_samples) || wanted < 0 ||
        wanted > there) {
      refuse_row(
          "furthest_points: sample_ptr must ascend from 0 to the number of samples and ask a "
          "cloud for no more than its points",
          cloud, "Ask for fewer.");
    }
  }
};

constexpr int64_t kBehindAll = std::numeric_limits<int64_t>::max();  // a place that loses to any

/// A place, and how far it is from all samples.
template <class T>
struct Candidate {
  T distance;
  int64_t place;
};

struct FurtherOf {
  template <class T>
  TSL_HOST_DEVICE Candidate<T> operator()(const Candidate<T>& a, const Candidate<T>& b) const {
    const bool is_b = b.distance > a.distance || (b.distance == a.distance && b.place < a.place);
    return is_b ? b : a;
  }
};

/// FurthestPoints by a block of threads; the distances are infinite to begin with.
template <class T>
struct FurthestPointsByBlock {
  FurthestPoints<T> search;

  template <class Block>
  TSL_HOST_DEVICE void operator()(const Block& block, int64_t cloud) const {
    const int64_t first = search.sample_ptr[cloud];
    const int64_t end = search.sample_ptr[cloud + 1];
    int64_t chosen = search.clouds.ptr[cloud];
    for (int64_t s = first; s < end; ++s) {
      if (s > first) {
        const auto visit = [&](int thread) {
          return furthest_of(cloud, chosen, thread, block.threads());
        };
        chosen = block.reduce(visit, FurtherOf{}).place;
      }
      block.once([&] { search.samples[s] = search.clouds.order[chosen]; });
    }
  }

  /// Among the places of one thread, once `chosen` is a sample.
  TSL_HOST_DEVICE Candidate<T> furthest_of(int64_t cloud, int64_t chosen, int thread,
                                           int threads) const {
    const Position<T> from = search.clouds.position(chosen);
    const int64_t end = search.clouds.ptr[cloud + 1];
    Candidate<T> best{T(-1), kBehindAll};
    for (int64_t i = search.clouds.ptr[cloud] + thread; i < end; i += threads) {
      const T d = search.clouds.squared_distance(i, from);
      const T before = i == chosen ? T(-1) : search.distance[i];  // none is taken twice
      const T distance = d < before ? d : before;
      search.distance[i] = distance;
      if (distance > best.distance) best = {distance, i};
    }
    return best;
  }
};

/// The clouds and the distances of `search` are filled in.
template <class Executor, class T>
void furthest_points(Executor& executor, const CloudRows<T>& clouds, FurthestPoints<T> search,
                     int64_t num_samples) {
  search.clouds = take_apart(executor, clouds);
  std::tie(search.distance) = scratch<T>(executor, {clouds.num_places});
  executor.for_each(clouds.num_clouds + 1, CheckSamples<T>{clouds, search.sample_ptr, num_samples});
  executor.for_each(clouds.num_places, Fill<T>{search.distance, kInfinitelyFar<T>});
  executor.for_each_block(clouds.num_clouds, FurthestPointsByBlock<T>{search});
}

}  // namespace tsl
