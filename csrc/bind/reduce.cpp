// SPDX-License-Identifier: MIT
#include "cpu/reduce.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bind/module.h"
#include "bind/pair_tiles.h"

namespace tsl::bind {
namespace {

void max_pool(const TensorView& feats, const TensorView& in_index, const TensorView& out_index,
              const TensorView& tile_ptr, int64_t tile_rows, const TensorView& out,
              const TensorView& argmax, int threads) {
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  feats.expect("max_pool: feats", dtype, {-1, -1});
  out.expect("max_pool: out", dtype, {-1, channels});
  argmax.expect("max_pool: argmax", DType::kInt32, {out.shape[0], channels});
  const cpu::PairTiles pairs = pair_tiles(in_index, out_index, tile_ptr, tile_rows, out.shape[0],
                                          tile_ptr.shape[1], "max_pool");
  const py::gil_scoped_release release;
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
  const cpu::PairTiles pairs = pair_tiles(in_index, out_index, tile_ptr, tile_rows, grad_in.shape[0],
                                          tile_ptr.shape[1], "max_pool_backward");
  const py::gil_scoped_release release;
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
  dispatch_plain(dtype, "segment_reduce", [&](auto tag) {
    using T = decltype(tag);
    cpu::segment_reduce(feats.as<T>(), order.as<int64_t>(), ptr.as<int64_t>(), segments, channels, how,
                        out.as<T>(), argmax ? argmax->as<int64_t>() : nullptr, threads);
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
  dispatch_plain(dtype, "interpolate_backward", [&](auto tag) {
    using T = decltype(tag);
    cpu::interpolate_backward(grad_out.as<T>(), index.as<int64_t>(), weight.as<T>(), count, terms,
                              grad_feats.shape[0], channels, grad_feats.as<T>(), threads);
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
}

}  // namespace tsl::bind
