// SPDX-License-Identifier: MIT
#include "cpu/point_search.h"

#include <algorithm>
#include <cmath>

#include "cpu/parallel.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kBlock = 16;  // points whose distances are worked out together
constexpr int64_t kQueriesPerTask = 32;

/// visit(place, squared distance), in order, for the points of a cloud that are not further than
/// limit(), which may fall from visit to visit; it ends the search when it is negative.
template <class T, class Limit, class Visit>
void visit_near(const Clouds<T>& clouds, int64_t cloud, const Position<T>& from, const Limit& limit,
                const Visit& visit) {
  const int64_t last = clouds.ptr[cloud + 1];
  for (int64_t begin = clouds.ptr[cloud]; begin < last; begin += kBlock) {
    const int64_t size = std::min(kBlock, last - begin);
    const T before = limit();
    T distance[kBlock];
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t i = 0; i < size; ++i) {
      distance[i] = clouds.squared_distance(begin + i, from);
      any |= distance[i] <= before ? 1 : 0;
    }
    for (int64_t i = 0; any && i < size; ++i) {
      if (distance[i] <= limit()) visit(begin + i, distance[i]);
    }
    if (limit() < 0) return;
  }
}

/// body(query) for every query, in small groups: a query costs as much as its cloud is large.
template <class Body>
void for_each_query(int64_t num_queries, int threads, const Body& body) {
  const int64_t tasks = (num_queries + kQueriesPerTask - 1) / kQueriesPerTask;
  parallel_tasks(tasks, threads, [&](int64_t task, int) {
    const int64_t end = std::min(num_queries, (task + 1) * kQueriesPerTask);
    for (int64_t query = task * kQueriesPerTask; query < end; ++query) body(query);
  });
}

/// Moves the distances in [begin, end) down to those from `from`; the largest of them.
template <class T>
T lower_distances(const Clouds<T>& clouds, int64_t begin, int64_t end, const Position<T>& from,
                  T* distance) {
  T largest = -1;
#pragma omp simd reduction(max : largest)
  for (int64_t i = begin; i < end; ++i) {
    const T d = clouds.squared_distance(i, from);
    const T lower = d < distance[i] ? d : distance[i];
    distance[i] = lower;
    largest = lower > largest ? lower : largest;
  }
  return largest;
}

/// The place that is furthest from all samples, once `from` is one of them.
template <class T>
int64_t next_sample(const FurthestPoints<T>& search, int64_t cloud, const Position<T>& from) {
  constexpr int64_t kSpan = 512;  // points among which the largest distance is looked for again
  const int64_t last = search.clouds.ptr[cloud + 1];
  int64_t best = search.clouds.ptr[cloud];
  T furthest = -1;
  for (int64_t begin = best; begin < last; begin += kSpan) {
    const int64_t end = std::min(last, begin + kSpan);
    const T largest = lower_distances(search.clouds, begin, end, from, search.distance);
    if (largest > furthest) {
      furthest = largest;
      best = begin;
    }
  }
  while (search.distance[best] != furthest) ++best;
  return best;
}

}  // namespace

template <class T>
void furthest_points(const FurthestPoints<T>& search, int64_t num_clouds, int threads) {
  const Clouds<T>& clouds = search.clouds;
  parallel_tasks(num_clouds, threads, [&](int64_t cloud, int) {
    std::fill(search.distance + clouds.ptr[cloud], search.distance + clouds.ptr[cloud + 1],
              kInfinitelyFar<T>);
    int64_t chosen = clouds.ptr[cloud];
    const int64_t end = search.sample_ptr[cloud + 1];
    for (int64_t s = search.sample_ptr[cloud]; s < end; ++s) {
      search.samples[s] = clouds.order[chosen];
      search.distance[chosen] = -1;
      if (s + 1 < end) chosen = next_sample(search, cloud, clouds.position(chosen));
    }
  });
}

template <class T>
void ball_query(const BallQuery<T>& search, int64_t num_queries, int threads) {
  const T inside = std::nextafter(search.radius * search.radius, T(-1));  // the border is outside
  for_each_query(num_queries, threads, [&](int64_t query) {
    int64_t* const rows = search.index + query * search.count;
    int64_t found = 0;
    visit_near(
        search.clouds, search.queries.cloud[query], search.queries.position(query),
        [&] { return found < search.count ? inside : T(-1); },
        [&](int64_t i, T) { rows[found++] = search.clouds.order[i]; });
    search.fill(rows, found);
  });
}

template <class T>
void nearest_points(const NearestPoints<T>& search, int64_t num_queries, int threads) {
  for_each_query(num_queries, threads, [&](int64_t query) {
    search.clear(query);
    // While there are fewer than asked for, the last is at infinity, and everything is as near.
    const T* const last = search.distance + (query + 1) * search.count - 1;
    visit_near(
        search.clouds, search.queries.cloud[query], search.queries.position(query),
        [&] { return *last; }, [&](int64_t i, T d) { search.offer(query, i, d); });
  });
}

#define TSL_INSTANTIATE(T)                                                  \
  template void furthest_points<T>(const FurthestPoints<T>&, int64_t, int); \
  template void ball_query<T>(const BallQuery<T>&, int64_t, int);           \
  template void nearest_points<T>(const NearestPoints<T>&, int64_t, int);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
#undef TSL_INSTANTIATE

}  // namespace tsl::cpu
