// SPDX-License-Identifier: MIT
#include "cpu/point_search.h"

#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"

namespace tsl::bind {
namespace {

/// Clouds as they come from Python: xyz (N, 3), order (M,) int64, ptr (num_clouds + 1,) int64.
struct CloudArrays {
  const TensorView& xyz;
  const TensorView& order;
  const TensorView& ptr;

  int64_t num_clouds() const { return ptr.shape[0] - 1; }

  void check(const char* function, int threads) const {
    xyz.expect(message(function, ": xyz").c_str(), xyz.dtype, {-1, 3});
    order.expect(message(function, ": order").c_str(), DType::kInt64, {-1});
    ptr.expect(message(function, ": ptr").c_str(), DType::kInt64, {-1});
    check_rows(order, 0, xyz.shape[0], message(function, ": order").c_str(), threads);
    check_ptr(ptr, order.shape[0], message(function, ": ptr").c_str(), threads);
  }

  template <class T>
  cpu::PackedClouds<T> packed() const {
    return {xyz.as<T>(), order.as<int64_t>(), ptr.as<int64_t>(), order.shape[0]};
  }
};

void check_queries(const TensorView& queries, const TensorView& query_cloud,
                   const CloudArrays& clouds, const char* function, int threads) {
  queries.expect(message(function, ": queries").c_str(), clouds.xyz.dtype, {-1, 3});
  query_cloud.expect(message(function, ": query_cloud").c_str(), DType::kInt64, {queries.shape[0]});
  check_rows(query_cloud, 0, clouds.num_clouds(), message(function, ": query_cloud").c_str(),
             threads);
}

/// Check clouds and queries, then run(tag, clouds, queries) in the type of the coordinates.
template <class Run>
void over_queries(const char* function, const CloudArrays& arrays, const TensorView& queries,
                  const TensorView& query_cloud, int threads, Run run) {
  arrays.check(function, threads);
  check_queries(queries, query_cloud, arrays, function, threads);
  dispatch_plain(arrays.xyz.dtype, function, [&](auto tag) {
    using T = decltype(tag);
    const auto clouds = arrays.packed<T>();
    run(tag, clouds.view(), Queries<T>{queries.as<T>(), query_cloud.as<int64_t>()});
  });
}

void furthest_points(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                     const TensorView& sample_ptr, const TensorView& samples, int threads) {
  const char* const function = "furthest_points";
  const CloudArrays arrays{xyz, order, ptr};
  samples.expect("furthest_points: samples", DType::kInt64, {-1});
  const py::gil_scoped_release release;
  arrays.check(function, threads);
  sample_ptr.expect("furthest_points: sample_ptr", DType::kInt64, {arrays.num_clouds() + 1});
  check_ptr(sample_ptr, samples.shape[0], "furthest_points: sample_ptr", threads);
  const int64_t* const wanted = sample_ptr.as<int64_t>();
  const int64_t* const there = ptr.as<int64_t>();
  for (int64_t c = 0; c < arrays.num_clouds(); ++c) {
    TSL_CHECK(wanted[c + 1] - wanted[c] <= there[c + 1] - there[c], ValueError,
              "furthest_points: sample_ptr must ask a cloud for no more than its points, got ",
              wanted[c + 1] - wanted[c], " of ", there[c + 1] - there[c], " in cloud ", c,
              ". Ask for fewer.");
  }
  dispatch_plain(xyz.dtype, function, [&](auto tag) {
    using T = decltype(tag);
    const auto clouds = arrays.packed<T>();
    const cpu::Scratch<T> distance(order.shape[0]);
    const FurthestPoints<T> search{clouds.view(), wanted, distance.data(), samples.as<int64_t>()};
    cpu::furthest_points(search, arrays.num_clouds(), threads);
  });
}

void ball_query(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                const TensorView& queries, const TensorView& query_cloud, double radius,
                const TensorView& index, int threads) {
  index.expect("ball_query: index", DType::kInt64, {queries.shape[0], -1});
  const py::gil_scoped_release release;
  const auto run = [&](auto tag, const auto& clouds, const auto& from) {
    using T = decltype(tag);
    const BallQuery<T> search{clouds, from, static_cast<T>(radius), index.shape[1],
                              index.as<int64_t>()};
    cpu::ball_query(search, queries.shape[0], threads);
  };
  over_queries("ball_query", {xyz, order, ptr}, queries, query_cloud, threads, run);
}

void nearest_points(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                    const TensorView& queries, const TensorView& query_cloud,
                    const TensorView& index, const TensorView& distance, int threads) {
  const int64_t count = queries.shape[0];
  index.expect("nearest_points: index", DType::kInt64, {count, -1});
  TSL_CHECK(index.shape[1] > 0, ValueError,
            "nearest_points: index must have at least one column, got none. Ask for a neighbour.");
  distance.expect("nearest_points: distance", xyz.dtype, {count, index.shape[1]});
  const py::gil_scoped_release release;
  const auto run = [&](auto tag, const auto& clouds, const auto& from) {
    using T = decltype(tag);
    const NearestPoints<T> search{clouds, from, index.shape[1], index.as<int64_t>(),
                                  distance.as<T>()};
    cpu::nearest_points(search, count, threads);
  };
  over_queries("nearest_points", {xyz, order, ptr}, queries, query_cloud, threads, run);
}

}  // namespace

void register_point_search(py::module_& module) {
  module.def("furthest_points", &furthest_points, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("sample_ptr"), py::arg("samples"), py::arg("threads"));
  module.def("ball_query", &ball_query, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("queries"), py::arg("query_cloud"), py::arg("radius"), py::arg("index"),
             py::arg("threads"));
  module.def("nearest_points", &nearest_points, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("queries"), py::arg("query_cloud"), py::arg("index"), py::arg("distance"),
             py::arg("threads"));
}

}  // namespace tsl::bind
