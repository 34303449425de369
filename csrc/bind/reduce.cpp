// SPDX-License-Identifier: MIT
#include "cpu/reduce.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"

namespace tsl::bind {
namespace {

constexpr int64_t kMissing = -1;  // an entry of an index that is skipped

void max_pool(const TensorView& feats, const TensorView& in_index, const TensorView& out_index,
              const TensorView& tile_ptr, int64_t tile_rows, const TensorView& out,
              const TensorView& argmax, int threads) {
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  feats.expect("max_pool: feats", dtype, {-1, -1});
  out.expect("max_pool: out", dtype, {-1, channels});
  argmax.expect("max_pool: argmax", DType::kInt32, {out.shape[0], channels});
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs = pair_tiles({in_index, out_index, tile_ptr, tile_rows},
                                          feats.shape[0], out.shape[0], "max_pool", threads);
  dispatch_plain(dtype, "max_pool", [&](auto tag) {
    using T = decltype(tag);
    cpu::max_pool(pairs, feats.as<T>(), channels, out.as<T>(), argmax.as<int32_t>(), threads);
  });
}

void max_pool_backward(const TensorView& grad_out, const TensorView& argmax,
                       const TensorView& in_index, const TensorView& out_index,
                       const TensorView& tile_ptr, int64_t tile_rows, const TensorView& grad_in,
                       int threads) {
  const DType dtype = grad_out.dtype;
  const int64_t channels = grad_out.shape[1];
  grad_out.expect("max_pool_backward: grad_out", dtype, {-1, -1});
  argmax.expect("max_pool_backward: argmax", DType::kInt32, {grad_out.shape[0], channels});
  grad_in.expect("max_pool_backward: grad_in", dtype, {-1, channels});
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs =
      pair_tiles({in_index, out_index, tile_ptr, tile_rows}, grad_out.shape[0], grad_in.shape[0],
                 "max_pool_backward", threads);
  dispatch_plain(dtype, "max_pool_backward", [&](auto tag) {
    using T = decltype(tag);
    cpu::max_pool_backward(pairs, grad_out.as<T>(), argmax.as<int32_t>(), channels, grad_in.as<T>(),
                           threads);
  });
}

cpu::Reduce reduce_named(const std::string& name) {
  if (name == "sum") return cpu::Reduce::kSum;
  if (name == "mean") return cpu::Reduce::kMean;
  if (name == "max") return cpu::Reduce::kMax;
  throw ValueError(message("segment_reduce: reduce must be 'sum', 'mean' or 'max', got '", name,
                           "'. Use one of these."));
}

void segment_reduce(const TensorView& feats, const TensorView& order, const TensorView& ptr,
                    const std::string& reduce, const TensorView& out,
                    const std::optional<TensorView>& argmax, int threads) {
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  const int64_t segments = ptr.shape[0] - 1;
  feats.expect("segment_reduce: feats", dtype, {-1, -1});
  order.expect("segment_reduce: order", DType::kInt64, {-1});
  ptr.expect("segment_reduce: ptr", DType::kInt64, {-1});
  out.expect("segment_reduce: out", dtype, {segments, channels});
  const cpu::Reduce how = reduce_named(reduce);
  TSL_CHECK(argmax || how != cpu::Reduce::kMax, ValueError,
            "segment_reduce: argmax must be given for 'max', got none. Pass a buffer.");
  if (argmax) argmax->expect("segment_reduce: argmax", DType::kInt64, {segments, channels});
  const py::gil_scoped_release release;
  check_rows(order, 0, feats.shape[0], "segment_reduce: order", threads);
  check_ptr(ptr, order.shape[0], "segment_reduce: ptr", threads);
  dispatch_plain(dtype, "segment_reduce", [&](auto tag) {
    using T = decltype(tag);
    cpu::segment_reduce(feats.as<T>(), order.as<int64_t>(), ptr.as<int64_t>(), segments, channels,
                        how, out.as<T>(), argmax ? argmax->as<int64_t>() : nullptr, threads);
  });
}

void interpolate(const TensorView& feats, const TensorView& index, const TensorView& weight,
                 const TensorView& out, int threads) {
  const DType dtype = feats.dtype;
  const int64_t count = index.shape[0];
  const int64_t terms = index.shape[1];
  const int64_t channels = feats.shape[1];
  feats.expect("interpolate: feats", dtype, {-1, -1});
  index.expect("interpolate: index", DType::kInt64, {-1, -1});
  weight.expect("interpolate: weight", dtype, {count, terms});
  out.expect("interpolate: out", dtype, {count, channels});
  const py::gil_scoped_release release;
  check_rows(index, kMissing, feats.shape[0], "interpolate: index", threads);
  dispatch_plain(dtype, "interpolate", [&](auto tag) {
    using T = decltype(tag);
    cpu::interpolate(feats.as<T>(), index.as<int64_t>(), weight.as<T>(), count, terms, channels,
                     out.as<T>(), threads);
  });
}

void interpolate_backward(const TensorView& grad_out, const TensorView& index,
                          const TensorView& weight, const TensorView& grad_feats, int threads) {
  const DType dtype = grad_out.dtype;
  const int64_t count = index.shape[0];
  const int64_t terms = index.shape[1];
  const int64_t channels = grad_out.shape[1];
  grad_out.expect("interpolate_backward: grad_out", dtype, {count, -1});
  index.expect("interpolate_backward: index", DType::kInt64, {-1, -1});
  weight.expect("interpolate_backward: weight", dtype, {count, terms});
  grad_feats.expect("interpolate_backward: grad_feats", dtype, {-1, channels});
  const py::gil_scoped_release release;
  check_rows(index, kMissing, grad_feats.shape[0], "interpolate_backward: index", threads);
  dispatch_plain(dtype, "interpolate_backward", [&](auto tag) {
    using T = decltype(tag);
    cpu::interpolate_backward(grad_out.as<T>(), index.as<int64_t>(), weight.as<T>(), count, terms,
                              grad_feats.shape[0], channels, grad_feats.as<T>(), threads);
  });
}

/// run(type tag) for the dtypes of whole-column operators.
template <class Run>
void dispatch_columns(DType dtype, const char* function, const Run& run) {
  if (dtype == DType::kBFloat16) return run(BFloat16{});
  dispatch_plain(dtype, function, run);
}

void column_sums(const TensorView& a, const std::optional<TensorView>& b, const TensorView& sum,
                 const std::optional<TensorView>& product, int threads) {
  const DType dtype = a.dtype;
  const int64_t rows = a.shape[0];
  const int64_t channels = a.shape[1];
  a.expect("column_sums: a", dtype, {-1, -1});
  if (b) b->expect("column_sums: b", dtype, {rows, channels});
  sum.expect("column_sums: sum", DType::kFloat64, {channels});
  TSL_CHECK(b.has_value() == product.has_value(), ValueError,
            "column_sums: product must be given with b, got one without the other. Pass both.");
  if (product) product->expect("column_sums: product", DType::kFloat64, {channels});
  const py::gil_scoped_release release;
  dispatch_columns(dtype, "column_sums", [&](auto tag) {
    using S = decltype(tag);
    cpu::column_sums(a.as<S>(), b ? b->as<S>() : nullptr, rows, channels, sum.as<double>(),
                     product ? product->as<double>() : nullptr, threads);
  });
}

void column_moments(const TensorView& feats, const TensorView& mean, const TensorView& variance,
                    int threads) {
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  feats.expect("column_moments: feats", dtype, {-1, -1});
  mean.expect("column_moments: mean", DType::kFloat64, {channels});
  variance.expect("column_moments: variance", DType::kFloat64, {channels});
  const py::gil_scoped_release release;
  dispatch_columns(dtype, "column_moments", [&](auto tag) {
    using S = decltype(tag);
    cpu::column_moments(feats.as<S>(), feats.shape[0], channels, mean.as<double>(),
                        variance.as<double>(), threads);
  });
}

void scale_shift(const TensorView& x, const TensorView& scale,
                 const std::optional<TensorView>& shift, const std::optional<TensorView>& other,
                 const std::optional<TensorView>& other_scale, const TensorView& out, int threads) {
  const DType dtype = x.dtype;
  const int64_t rows = x.shape[0];
  const int64_t channels = x.shape[1];
  x.expect("scale_shift: x", dtype, {-1, -1});
  scale.expect("scale_shift: scale", DType::kFloat64, {channels});
  if (shift) shift->expect("scale_shift: shift", DType::kFloat64, {channels});
  TSL_CHECK(other.has_value() == other_scale.has_value(), ValueError,
            "scale_shift: other_scale must be given with other, got one without the other. ",
            "Pass both.");
  if (other) other->expect("scale_shift: other", dtype, {rows, channels});
  if (other_scale) other_scale->expect("scale_shift: other_scale", DType::kFloat64, {channels});
  out.expect("scale_shift: out", dtype, {rows, channels});
  const py::gil_scoped_release release;
  dispatch_columns(dtype, "scale_shift", [&](auto tag) {
    using S = decltype(tag);
    const cpu::ScaledColumns<S> first{x.as<S>(), scale.as<double>()};
    const cpu::ScaledColumns<S> second{other ? other->as<S>() : nullptr,
                                       other_scale ? other_scale->as<double>() : nullptr};
    cpu::scale_shift(first, second, shift ? shift->as<double>() : nullptr, rows, channels,
                     out.as<S>(), threads);
  });
}

}  // namespace

void register_reduce(py::module_& module) {
  module.def("max_pool", &max_pool, py::arg("feats"), py::arg("in_index"), py::arg("out_index"),
             py::arg("tile_ptr"), py::arg("tile_rows"), py::arg("out"), py::arg("argmax"),
             py::arg("threads"));
  module.def("max_pool_backward", &max_pool_backward, py::arg("grad_out"), py::arg("argmax"),
             py::arg("in_index"), py::arg("out_index"), py::arg("tile_ptr"), py::arg("tile_rows"),
             py::arg("grad_in"), py::arg("threads"));
  module.def("segment_reduce", &segment_reduce, py::arg("feats"), py::arg("order"), py::arg("ptr"),
             py::arg("reduce"), py::arg("out"), py::arg("argmax"), py::arg("threads"));
  module.def("interpolate", &interpolate, py::arg("feats"), py::arg("index"), py::arg("weight"),
             py::arg("out"), py::arg("threads"));
  module.def("interpolate_backward", &interpolate_backward, py::arg("grad_out"), py::arg("index"),
             py::arg("weight"), py::arg("grad_feats"), py::arg("threads"));
  module.def("column_sums", &column_sums, py::arg("a"), py::arg("b"), py::arg("sum"),
             py::arg("product"), py::arg("threads"));
  module.def("column_moments", &column_moments, py::arg("feats"), py::arg("mean"),
             py::arg("variance"), py::arg("threads"));
  module.def("scale_shift", &scale_shift, py::arg("x"), py::arg("scale"), py::arg("shift"),
             py::arg("other"), py::arg("other_scale"), py::arg("out"), py::arg("threads"));
}

}  // namespace tsl::bind
