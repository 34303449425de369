// SPDX-License-Identifier: MIT
#include "cpu/point_search.h"

#include <string>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "cuda/point_search.h"

namespace tsl::bind {
namespace {

/// Clouds as they come from Python: xyz (N, 3), order (M,) int64, ptr (num_clouds + 1,) int64.
struct CloudArrays {
  const char* function;
  const TensorView& xyz;
  const TensorView& order;
  const TensorView& ptr;

  std::string argument(const char* name) const { return message(function, ": ", name); }
  int64_t num_clouds() const { return ptr.shape[0] - 1; }

  /// Types and shapes alone; on a GPU the passes look into the arrays themselves.
  dlpack::DeviceType check() const {
    const dlpack::DeviceType device = device_of(xyz, argument("xyz").c_str());
    xyz.expect(argument("xyz").c_str(), xyz.dtype, {-1, 3}, device);
    order.expect(argument("order").c_str(), DType::kInt64, {-1}, device);
    ptr.expect(argument("ptr").c_str(), DType::kInt64, {-1}, device);
    TSL_CHECK(num_clouds() >= 0, ValueError, argument("ptr"),
              " must have at least one entry, got none. ",
              "Give where each cloud begins, and the end.");
    return device;
  }

  /// Entries too, on the CPU.
  void check_entries(int threads) const {
    check_rows(order, 0, xyz.shape[0], argument("order").c_str(), threads);
    check_ptr(ptr, order.shape[0], argument("ptr").c_str(), threads);
  }

  template <class T>
  CloudRows<T> rows() const {
    return {xyz.as<T>(),  order.as<int64_t>(), ptr.as<int64_t>(),
            xyz.shape[0], order.shape[0],      num_clouds()};
  }
};

/// On the CPU; a GPU looks into sample_ptr itself.
void check_samples(const CloudArrays& clouds, const TensorView& sample_ptr, int64_t num_samples,
                   int threads) {
  check_ptr(sample_ptr, num_samples, "furthest_points: sample_ptr", threads);
  const int64_t* const wanted = sample_ptr.as<int64_t>();
  const int64_t* const there = clouds.ptr.as<int64_t>();
  for (int64_t c = 0; c < clouds.num_clouds(); ++c) {
    TSL_CHECK(wanted[c + 1] - wanted[c] <= there[c + 1] - there[c], ValueError,
              "furthest_points: sample_ptr must ask a cloud for no more than its points, got ",
              wanted[c + 1] - wanted[c], " of ", there[c + 1] - there[c], " in cloud ", c,
              ". Ask for fewer.");
  }
}

void furthest_points(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                     const TensorView& sample_ptr, const TensorView& samples,
                     const py::function& scratch, int threads) {
  const CloudArrays clouds{"furthest_points", xyz, order, ptr};
  const dlpack::DeviceType device = clouds.check();
  sample_ptr.expect("furthest_points: sample_ptr", DType::kInt64, {clouds.num_clouds() + 1},
                    device);
  samples.expect("furthest_points: samples", DType::kInt64, {-1}, device);
  dispatch<Plain>(xyz.dtype, clouds.argument("xyz"), [&](auto tag) {
    using T = decltype(tag);
    const CloudRows<T> rows = clouds.rows<T>();
    FurthestPoints<T> search{{}, sample_ptr.as<int64_t>(), nullptr, samples.as<int64_t>()};
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        return CudaCall(xyz, scratch)([&](const cuda::Call& call) {
          cuda::furthest_points(call, rows, search, samples.shape[0]);
        });
      }
    }
    const py::gil_scoped_release release;
    clouds.check_entries(threads);
    check_samples(clouds, sample_ptr, samples.shape[0], threads);
    const cpu::PackedClouds<T> packed(rows);
    const cpu::Scratch<T> distance(rows.num_places);
    search.clouds = packed.view();
    search.distance = distance.data();
    cpu::furthest_points(search, rows.num_clouds, threads);
  });
}

/// Positions (M, 3) and the clouds (M,) int64 in which they look.
struct QueryArrays {
  const TensorView& xyz;
  const TensorView& cloud;

  void check(const CloudArrays& clouds, dlpack::DeviceType device) const {
    xyz.expect(clouds.argument("queries").c_str(), clouds.xyz.dtype, {-1, 3}, device);
    cloud.expect(clouds.argument("query_cloud").c_str(), DType::kInt64, {xyz.shape[0]}, device);
  }
};

/// Runs make_search(type tag, queries), a BallQuery or a NearestPoints that lacks its clouds; on
/// the CPU through run_on_cpu(search, num_queries).
template <class MakeSearch, class RunOnCpu>
void search_points(const CloudArrays& clouds, const QueryArrays& queries, dlpack::DeviceType device,
                   const py::function& scratch, int threads, const MakeSearch& make_search,
                   const RunOnCpu& run_on_cpu) {
  const int64_t count = queries.xyz.shape[0];
  dispatch<Plain>(clouds.xyz.dtype, clouds.argument("xyz"), [&](auto tag) {
    using T = decltype(tag);
    const CloudRows<T> rows = clouds.rows<T>();
    auto search = make_search(tag, Queries<T>{queries.xyz.as<T>(), queries.cloud.as<int64_t>()});
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        return CudaCall(clouds.xyz, scratch)(
            [&](const cuda::Call& call) { cuda::search_points(call, rows, search, count); });
      }
    }
    const py::gil_scoped_release release;
    clouds.check_entries(threads);
    check_rows(queries.cloud, 0, rows.num_clouds, clouds.argument("query_cloud").c_str(), threads);
    const cpu::PackedClouds<T> packed(rows);
    search.clouds = packed.view();
    run_on_cpu(search, count);
  });
}

void ball_query(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                const TensorView& queries, const TensorView& query_cloud, double radius,
                const TensorView& index, const py::function& scratch, int threads) {
  const CloudArrays clouds{"ball_query", xyz, order, ptr};
  const QueryArrays asked{queries, query_cloud};
  const dlpack::DeviceType device = clouds.check();
  asked.check(clouds, device);
  index.expect("ball_query: index", DType::kInt64, {queries.shape[0], -1}, device);
  search_points(
      clouds, asked, device, scratch, threads,
      [&](auto tag, const auto& from) {
        using T = decltype(tag);
        return BallQuery<T>{{}, from, static_cast<T>(radius), index.shape[1], index.as<int64_t>()};
      },
      [&](const auto& search, int64_t count) { cpu::ball_query(search, count, threads); });
}

void nearest_points(const TensorView& xyz, const TensorView& order, const TensorView& ptr,
                    const TensorView& queries, const TensorView& query_cloud,
                    const TensorView& index, const TensorView& distance,
                    const py::function& scratch, int threads) {
  const CloudArrays clouds{"nearest_points", xyz, order, ptr};
  const QueryArrays asked{queries, query_cloud};
  const dlpack::DeviceType device = clouds.check();
  asked.check(clouds, device);
  index.expect("nearest_points: index", DType::kInt64, {queries.shape[0], -1}, device);
  TSL_CHECK(index.shape[1] > 0, ValueError,
            "nearest_points: index must have at least one column, got none. Ask for a neighbour.");
  distance.expect("nearest_points: distance", xyz.dtype, {queries.shape[0], index.shape[1]},
                  device);
  search_points(
      clouds, asked, device, scratch, threads,
      [&](auto tag, const auto& from) {
        using T = decltype(tag);
        return NearestPoints<T>{{}, from, index.shape[1], index.as<int64_t>(), distance.as<T>()};
      },
      [&](const auto& search, int64_t count) { cpu::nearest_points(search, count, threads); });
}

}  // namespace

void register_point_search(py::module_& module) {
  module.def("furthest_points", &furthest_points, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("sample_ptr"), py::arg("samples"), py::arg("scratch"), py::arg("threads"));
  module.def("ball_query", &ball_query, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("queries"), py::arg("query_cloud"), py::arg("radius"), py::arg("index"),
             py::arg("scratch"), py::arg("threads"));
  module.def("nearest_points", &nearest_points, py::arg("xyz"), py::arg("order"), py::arg("ptr"),
             py::arg("queries"), py::arg("query_cloud"), py::arg("index"), py::arg("distance"),
             py::arg("scratch"), py::arg("threads"));
}

}  // namespace tsl::bind
