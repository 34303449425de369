// SPDX-License-Identifier: MIT
// The passes of sampling and neighbour search that a GPU runs, on the CPU: each gives what the
// plain specification gives, for blocks of any number of threads, and waits for nothing.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "executor.h"
#include "kernels/point_search_passes.h"
#include "numbers.h"
#include "point_clouds.h"
#include "refusal.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 3};
constexpr int kBlockThreads[] = {1, 2, 32, 1024};

/// Positions as the caller has them: those of all clouds interleaved.
template <class T>
std::vector<T> interleaved(const OwnedClouds<T>& clouds) {
  std::vector<T> xyz(3 * clouds.x.size());
  for (int64_t place = 0; place < size_of(clouds.order); ++place) {
    const int64_t row = at(clouds.order, place);
    at(xyz, 3 * row) = at(clouds.x, place);
    at(xyz, 3 * row + 1) = at(clouds.y, place);
    at(xyz, 3 * row + 2) = at(clouds.z, place);
  }
  return xyz;
}

template <class T>
CloudRows<T> rows_of(const OwnedClouds<T>& clouds, const std::vector<T>& xyz) {
  return {xyz.data(),       clouds.order.data(),   clouds.ptr.data(),
          size_of(xyz) / 3, size_of(clouds.order), clouds.count()};
}

template <class T>
std::vector<int64_t> by_specification(const OwnedClouds<T>& clouds,
                                      const std::vector<int64_t>& sample_ptr) {
  std::vector<int64_t> samples(static_cast<size_t>(sample_ptr.back()), 777);
  std::vector<T> distance(clouds.x.size(), T(777));
  const FurthestPoints<T> search{clouds.view(), sample_ptr.data(), distance.data(), samples.data()};
  for (int64_t c = 0; c < clouds.count(); ++c) search(c);
  return samples;
}

template <class T>
void check_furthest(const OwnedClouds<T>& clouds, const std::vector<int64_t>& sample_ptr) {
  const std::vector<T> xyz = interleaved(clouds);
  const std::vector<int64_t> expected = by_specification(clouds, sample_ptr);
  for (const int threads : kThreadCounts) {
    for (const int block_threads : kBlockThreads) {
      const check::Note note(block_threads, " threads a block");
      Executor executor(threads, block_threads);
      std::vector<int64_t> samples(expected.size(), 777);
      const FurthestPoints<T> search{{}, sample_ptr.data(), nullptr, samples.data()};
      furthest_points(executor, rows_of(clouds, xyz), search, size_of(samples));
      CHECK_EQ(samples, expected);
      CHECK_EQ(executor.waits(), 0);
    }
  }
}

TEST(furthest_points_are_those_of_the_specification) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    for (const int64_t extent : {0, 2, 40}) {
      const OwnedClouds<T> clouds(21, kSizes, extent);
      for (const int64_t most : {1, 5, 200, 2000}) {
        const check::Note note("extent ", extent, ", at most ", most);
        std::vector<int64_t> sample_ptr{0};
        for (const int64_t size : kSizes) {
          sample_ptr.push_back(sample_ptr.back() + std::min(size, most));
        }
        check_furthest(clouds, sample_ptr);
      }
      check_furthest(clouds, std::vector<int64_t>(kSizes.size() + 1, 0));
    }
    check_furthest(OwnedClouds<T>(22, {}, 1), {0});
  });
}

TEST(distances_that_overflow_or_vanish_are_distances) {
  OwnedClouds<float> far(1, {6}, 1);
  far.x = {1e30f,
           -1e30f,
           0,
           1e-30f,
           std::numeric_limits<float>::denorm_min(),
           std::numeric_limits<float>::quiet_NaN()};
  far.y = far.z = {0, 0, 0, 0, 1e-22f, 0};
  for (const int64_t samples : {1, 3, 6}) check_furthest(far, {0, samples});
}

template <class Search>
void check_search(const std::vector<int64_t>& expected, const Search& search) {
  for (const int threads : kThreadCounts) {
    Executor executor(threads);
    std::vector<int64_t> index(expected.size(), 777);
    search(executor, index.data());
    CHECK_EQ(index, expected);
    CHECK_EQ(executor.waits(), 0);
  }
}

TEST(balls_are_those_of_the_specification) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    const OwnedClouds<T> clouds(23, kSizes, 40);
    const OwnedQueries<T> queries(24, 200, clouds.count(), 40);
    const std::vector<T> xyz = interleaved(clouds);
    for (const T radius : {T(0.125), T(2), T(100)}) {
      for (const int64_t count : {1, 16, 150}) {
        const check::Note note("radius ", radius, ", up to ", count);
        std::vector<int64_t> expected(static_cast<size_t>(200 * count), 777);
        const BallQuery<T> plain{clouds.view(), queries.view(), radius, count, expected.data()};
        for (int64_t q = 0; q < 200; ++q) plain(q);
        check_search(expected, [&](Executor& executor, int64_t* index) {
          const BallQuery<T> search{{}, queries.view(), radius, count, index};
          search_points(executor, rows_of(clouds, xyz), search, 200);
        });
      }
    }
  });
}

TEST(the_nearest_are_those_of_the_specification) {
  for_float_and_double([](auto tag) {
    using T = decltype(tag);
    const OwnedClouds<T> clouds(25, kSizes, 20);
    const OwnedQueries<T> queries(26, 200, clouds.count(), 20);
    const std::vector<T> xyz = interleaved(clouds);
    for (const int64_t count : {1, 3, 90}) {
      const check::Note note(count, " neighbours");
      std::vector<int64_t> expected(static_cast<size_t>(200 * count), 777);
      std::vector<T> far(expected.size(), T(777));
      const NearestPoints<T> plain{clouds.view(), queries.view(), count, expected.data(),
                                   far.data()};
      for (int64_t q = 0; q < 200; ++q) plain(q);
      check_search(expected, [&](Executor& executor, int64_t* index) {
        std::vector<T> distance(expected.size(), T(777));
        const NearestPoints<T> search{{}, queries.view(), count, index, distance.data()};
        search_points(executor, rows_of(clouds, xyz), search, 200);
        CHECK(same_bits(distance, far));
      });
    }
  });
}

/// A cloud of five points and one of three, three samples and two queries.
struct Case {
  OwnedClouds<float> clouds{27, {5, 3}, 4};
  std::vector<float> xyz = interleaved(clouds);
  OwnedQueries<float> queries{28, 2, 2, 4};
  std::vector<int64_t> sample_ptr{0, 2, 3};

  std::string refusal_to_sample() const {
    return refusal([&] {
      Executor executor(1);
      std::vector<int64_t> samples(3);
      const FurthestPoints<float> search{{}, sample_ptr.data(), nullptr, samples.data()};
      furthest_points(executor, rows_of(clouds, xyz), search, 3);
    });
  }

  std::string refusal_to_search() const {
    return refusal([&] {
      Executor executor(1);
      std::vector<int64_t> index(2);
      const BallQuery<float> search{{}, queries.view(), 1, 1, index.data()};
      search_points(executor, rows_of(clouds, xyz), search, 2);
    });
  }
};

template <class Spoil>
Case spoil(const Spoil& spoil) {
  Case made;
  spoil(made);
  return made;
}

TEST(what_does_not_fit_is_refused) {
  const Case good;
  CHECK_EQ(good.refusal_to_sample(), std::string());
  CHECK_EQ(good.refusal_to_search(), std::string());
  const auto bad_clouds = [](const auto& change, const char* words) {
    const Case bad = spoil(change);
    CHECK(says(bad.refusal_to_sample(), words));
    CHECK(says(bad.refusal_to_search(), words));
  };
  bad_clouds([](Case& c) { c.clouds.order[7] = 8; }, "order must be rows of xyz");
  bad_clouds([](Case& c) { c.clouds.order[0] = -1; }, "order must be rows of xyz");
  bad_clouds([](Case& c) { c.clouds.ptr[0] = 1; }, "ptr must ascend");
  bad_clouds([](Case& c) { c.clouds.ptr[0] = -1; }, "ptr must ascend");
  bad_clouds([](Case& c) { c.clouds.ptr[1] = 1'000'000; }, "ptr must ascend");
  bad_clouds([](Case& c) { c.clouds.ptr[2] = 7; }, "ptr must ascend");
  const auto bad_queries = [](int64_t cloud) {
    return spoil([&](Case& c) { c.queries.cloud[1] = cloud; }).refusal_to_search();
  };
  CHECK(says(bad_queries(2), "query_cloud must be clouds"));
  CHECK(says(bad_queries(-1), "query_cloud must be clouds"));
  for (const std::vector<int64_t>& wanted : std::vector<std::vector<int64_t>>{
           {0, 6, 3}, {0, 0, 4}, {0, 2, 2}, {1, 2, 3}, {-1, 2, 3}, {0, -1, 3}, {0, 3, 2}}) {
    const Case bad = spoil([&](Case& c) { c.sample_ptr = wanted; });
    CHECK(says(bad.refusal_to_sample(), "sample_ptr must ascend"));
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
