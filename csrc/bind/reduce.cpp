// SPDX-License-Identifier: MIT
#include "cpu/reduce.h"

#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <string>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "cuda/interpolate.h"
#include "cuda/segment_reduce.h"

namespace tsl::bind {
namespace {

constexpr int64_t kMissing = -1;  // an entry of an index that is skipped

Reduce reduce_named(const std::string& name) {
  if (name == "sum") return Reduce::kSum;
  if (name == "mean") return Reduce::kMean;
  if (name == "max") return Reduce::kMax;
  throw ValueError(message("segment_reduce: reduce must be 'sum', 'mean' or 'max', got '", name,
                           "'. Use one of these."));
}

void segment_reduce(const TensorView& feats, const TensorView& order, const TensorView& ptr,
                    const std::string& reduce, const TensorView& out,
                    const std::optional<TensorView>& argmax, const py::function& scratch,
                    int threads) {
  const dlpack::DeviceType device = device_of(feats, "segment_reduce: feats");
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  const int64_t segments = ptr.shape[0] - 1;
  feats.expect("segment_reduce: feats", dtype, {-1, -1}, device);
  order.expect("segment_reduce: order", DType::kInt64, {-1}, device);
  ptr.expect("segment_reduce: ptr", DType::kInt64, {-1}, device);
  out.expect("segment_reduce: out", dtype, {segments, channels}, device);
  const Reduce how = reduce_named(reduce);
  TSL_CHECK(argmax || how != Reduce::kMax, ValueError,
            "segment_reduce: argmax must be given for 'max', got none. Pass a buffer.");
  if (argmax) argmax->expect("segment_reduce: argmax", DType::kInt64, {segments, channels}, device);
  int64_t* const rows = argmax ? argmax->as<int64_t>() : nullptr;
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return dispatch<Floating>(dtype, "segment_reduce: feats", [&](auto tag) {
        using S = decltype(tag);
        const SegmentReduce<S> task{
            feats.as<S>(),  order.as<int64_t>(), ptr.as<int64_t>(), out.as<S>(), rows,
            feats.shape[0], order.shape[0],      segments,          channels,    how};
        CudaCall(feats, scratch)([&](const cuda::Call& call) { cuda::segment_reduce(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  const int64_t terms = check_ptr_within(ptr, order.shape[0], "segment_reduce: ptr", threads);
  check_rows(order.head(terms), 0, feats.shape[0], "segment_reduce: order", threads);
  dispatch<Plain>(dtype, "segment_reduce: feats", [&](auto tag) {
    using T = decltype(tag);
    cpu::segment_reduce(feats.as<T>(), order.as<int64_t>(), ptr.as<int64_t>(), segments, channels,
                        how, out.as<T>(), rows, threads);
  });
}

template <class A>
Stencils<A> stencils(const TensorView& index, const TensorView& weight, int64_t num_rows) {
  return Stencils<A>{index.as<int64_t>(), weight.as<A>(), index.shape[0], index.shape[1], num_rows};
}

void interpolate(const TensorView& feats, const TensorView& index, const TensorView& weight,
                 const TensorView& out, int threads) {
  const dlpack::DeviceType device = device_of(feats, "interpolate: feats");
  const DType dtype = feats.dtype;
  const int64_t count = index.shape[0];
  const int64_t terms = index.shape[1];
  const int64_t channels = feats.shape[1];
  feats.expect("interpolate: feats", dtype, {-1, -1}, device);
  index.expect("interpolate: index", DType::kInt64, {-1, -1}, device);
  weight.expect("interpolate: weight", sum_dtype(dtype), {count, terms}, device);
  out.expect("interpolate: out", dtype, {count, channels}, device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      void* const stream = current_stream(feats);
      const py::gil_scoped_release release;
      return dispatch<Floating>(dtype, "interpolate: feats", [&](auto tag) {
        using S = decltype(tag);
        const Interpolation<S> task{stencils<SumType<S>>(index, weight, feats.shape[0]),
                                    feats.as<S>(), out.as<S>(), channels};
        cuda::interpolate(task, feats.device.id, stream);
      });
    }
  }
  const py::gil_scoped_release release;
  check_rows(index, kMissing, feats.shape[0], "interpolate: index", threads);
  dispatch<Plain>(dtype, "interpolate: feats", [&](auto tag) {
    using T = decltype(tag);
    cpu::interpolate(feats.as<T>(), index.as<int64_t>(), weight.as<T>(), count, terms, channels,
                     out.as<T>(), threads);
  });
}

void interpolate_backward(const TensorView& grad_out, const TensorView& index,
                          const TensorView& weight, const TensorView& grad_feats,
                          const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(grad_out, "interpolate_backward: grad_out");
  const DType dtype = grad_out.dtype;
  const int64_t count = index.shape[0];
  const int64_t terms = index.shape[1];
  const int64_t channels = grad_out.shape[1];
  const int64_t num_rows = grad_feats.shape[0];
  grad_out.expect("interpolate_backward: grad_out", dtype, {count, -1}, device);
  index.expect("interpolate_backward: index", DType::kInt64, {-1, -1}, device);
  weight.expect("interpolate_backward: weight", sum_dtype(dtype), {count, terms}, device);
  grad_feats.expect("interpolate_backward: grad_feats", dtype, {-1, channels}, device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
      TSL_CHECK(count * terms <= kMost && num_rows <= kMost, ValueError,
                "interpolate_backward: index must have fewer than 2^31 entries and rows, got ",
                count * terms, " and ", num_rows, ". Split the cloud.");
      return dispatch<Floating>(dtype, "interpolate_backward: grad_out", [&](auto tag) {
        using S = decltype(tag);
        const InterpolateBackward<S> task{stencils<SumType<S>>(index, weight, num_rows),
                                          grad_out.as<S>(), grad_feats.as<S>(), channels};
        CudaCall(grad_out,
                 scratch)([&](const cuda::Call& call) { cuda::interpolate_backward(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  check_rows(index, kMissing, num_rows, "interpolate_backward: index", threads);
  dispatch<Plain>(dtype, "interpolate_backward: grad_out", [&](auto tag) {
    using T = decltype(tag);
    cpu::interpolate_backward(grad_out.as<T>(), index.as<int64_t>(), weight.as<T>(), count, terms,
                              num_rows, channels, grad_feats.as<T>(), threads);
  });
}

}  // namespace

void register_reduce(py::module_& module) {
  module.def("segment_reduce", &segment_reduce, py::arg("feats"), py::arg("order"), py::arg("ptr"),
             py::arg("reduce"), py::arg("out"), py::arg("argmax"), py::arg("scratch"),
             py::arg("threads"));
  module.def("interpolate", &interpolate, py::arg("feats"), py::arg("index"), py::arg("weight"),
             py::arg("out"), py::arg("threads"));
  module.def("interpolate_backward", &interpolate_backward, py::arg("grad_out"), py::arg("index"),
             py::arg("weight"), py::arg("grad_feats"), py::arg("scratch"), py::arg("threads"));
}

}  // namespace tsl::bind
