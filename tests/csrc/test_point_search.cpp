// SPDX-License-Identifier: MIT
// Sampling and neighbour search against the plain specification, and that against tables by hand.
#include "cpu/point_search.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "numbers.h"
#include "point_clouds.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3};

template <class T>
std::vector<int64_t> sample_furthest(const OwnedClouds<T>& clouds,
                                     const std::vector<int64_t>& sample_ptr, int threads) {
  std::vector<int64_t> samples(static_cast<size_t>(sample_ptr.back()), 777);
  std::vector<T> distance(clouds.x.size(), T(777));
  const FurthestPoints<T> search{clouds.view(), sample_ptr.data(), distance.data(), samples.data()};
  if (threads == 0) {
    for (int64_t c = 0; c < clouds.count(); ++c) search(c);
  } else {
    cpu::furthest_points(search, clouds.count(), threads);
  }
  return samples;
}

TEST(furthest_points_are_those_of_the_specification) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    for (const int64_t extent : {2, 40}) {
      const OwnedClouds<T> clouds(11, kSizes, extent);
      for (const int64_t most : {1, 5, 200, 2000}) {
        const check::Note note("extent ", extent, ", at most ", most);
        std::vector<int64_t> sample_ptr{0};
        for (const int64_t size : kSizes) {
          sample_ptr.push_back(sample_ptr.back() + std::min(size, most));
        }
        const std::vector<int64_t> expected = sample_furthest(clouds, sample_ptr, 0);
        for (const int threads : kThreadCounts) {
          CHECK_EQ(sample_furthest(clouds, sample_ptr, threads), expected);
        }
      }
    }
  });
}

TEST(furthest_points_by_hand) {
  OwnedClouds<float> line(1, {5}, 1);
  line.x = {0, 1, 4, -4, 2};
  line.y = line.z = {0, 0, 0, 0, 0};
  // 4 and -4 are as far: the lower row comes first. Then 2 is, as far as any, 2 from 0 and 4.
  CHECK_EQ(sample_furthest(line, {0, 5}, 1), (std::vector<int64_t>{0, 2, 3, 4, 1}));
  line.x = {3, 3, 3, 3, 3};
  CHECK_EQ(sample_furthest(line, {0, 5}, 1), (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

template <class T>
std::vector<int64_t> ball(const OwnedClouds<T>& clouds, const OwnedQueries<T>& queries, T radius,
                          int64_t count, int threads) {
  const int64_t num_queries = size_of(queries.cloud);
  std::vector<int64_t> index(static_cast<size_t>(num_queries * count), 777);
  const BallQuery<T> search{clouds.view(), queries.view(), radius, count, index.data()};
  if (threads == 0) {
    for (int64_t q = 0; q < num_queries; ++q) search(q);
  } else {
    cpu::ball_query(search, num_queries, threads);
  }
  return index;
}

TEST(balls_are_those_of_the_specification) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    const OwnedClouds<T> clouds(12, kSizes, 40);
    const OwnedQueries<T> queries(13, 300, clouds.count(), 40);
    for (const T radius : {T(0.125), T(2), T(100)}) {
      for (const int64_t count : {1, 16, 150}) {
        const check::Note note("radius ", radius, ", up to ", count);
        const std::vector<int64_t> expected = ball(clouds, queries, radius, count, 0);
        for (const int threads : kThreadCounts) {
          CHECK_EQ(ball(clouds, queries, radius, count, threads), expected);
        }
      }
    }
  });
}

TEST(balls_by_hand) {
  OwnedClouds<float> line(1, {4, 1}, 1);
  line.x = {0, 3, 1, 2, 0};
  line.y = line.z = {0, 0, 0, 0, 0};
  line.order = {0, 2, 3, 4, 1};
  OwnedQueries<float> queries(1, 4, 1, 1);
  queries.xyz = {0, 0, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0};
  queries.cloud = {0, 0, 0, 1};
  const std::vector<int64_t> expected{0,  3,  0,  0, 3, 4,  // 2 is not nearer than 2 to 0
                                      -1, -1, -1, 1, 1, 1};
  CHECK_EQ(ball(line, queries, 2.0f, 3, 1), expected);
  CHECK_EQ(ball(line, queries, 2.0f, 3, 0), expected);
}

template <class T>
struct Nearest {
  std::vector<int64_t> index;
  std::vector<T> distance;

  Nearest(const OwnedClouds<T>& clouds, const OwnedQueries<T>& queries, int64_t count, int threads)
      : index(queries.cloud.size() * static_cast<size_t>(count), 777),
        distance(index.size(), T(777)) {
    const int64_t num_queries = size_of(queries.cloud);
    const NearestPoints<T> search{clouds.view(), queries.view(), count, index.data(),
                                  distance.data()};
    if (threads == 0) {
      for (int64_t q = 0; q < num_queries; ++q) search(q);
    } else {
      cpu::nearest_points(search, num_queries, threads);
    }
  }
};

TEST(the_nearest_are_those_of_the_specification_and_of_a_sort) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    const OwnedClouds<T> clouds(14, kSizes, 20);
    const OwnedQueries<T> queries(15, 300, clouds.count(), 20);
    for (const int64_t count : {1, 3, 90}) {
      const check::Note note(count, " neighbours");
      const Nearest<T> expected(clouds, queries, count, 0);
      for (const int threads : kThreadCounts) {
        const Nearest<T> found(clouds, queries, count, threads);
        CHECK_EQ(found.index, expected.index);
        CHECK(same_bits(found.distance, expected.distance));
      }
      for (int64_t q = 0; q < size_of(queries.cloud); ++q) {
        std::vector<std::pair<T, int64_t>> all;
        const int64_t cloud = at(queries.cloud, q);
        for (int64_t i = at(clouds.ptr, cloud); i < at(clouds.ptr, cloud + 1); ++i) {
          const T d = clouds.view().squared_distance(i, queries.view().position(q));
          all.emplace_back(d, at(clouds.order, i));
        }
        std::sort(all.begin(), all.end());
        all.resize(static_cast<size_t>(count), {std::numeric_limits<T>::infinity(), kNoPoint});
        for (int64_t n = 0; n < count; ++n) {
          CHECK_EQ(at(expected.index, q * count + n), at(all, n).second);
          CHECK_EQ(at(expected.distance, q * count + n), at(all, n).first);
        }
      }
    }
  });
}

TEST(distances_that_overflow_are_distances) {
  OwnedClouds<float> far(1, {3}, 1);
  far.x = {1e30f, -1e30f, 0};
  far.y = far.z = {0, 0, 0};
  OwnedQueries<float> queries(1, 1, 1, 1);
  queries.xyz = {3, 0, 0};
  CHECK_EQ(Nearest<float>(far, queries, 3, 1).index, (std::vector<int64_t>{2, 0, 1}));
  std::vector<int64_t> samples = sample_furthest(far, {0, 3}, 1);
  std::sort(samples.begin(), samples.end());
  CHECK_EQ(samples, (std::vector<int64_t>{0, 1, 2}));
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
