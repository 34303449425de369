// SPDX-License-Identifier: MIT
#include "cuda/max_pool.h"

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "cpu/reduce.h"

namespace tsl::bind {
namespace {

void max_pool(const TensorView& feats, const TensorView& in_index, const TensorView& out_index,
              const TensorView& tile_ptr, int64_t tile_rows, const TensorView& out,
              const TensorView& argmax, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(feats, "max_pool: feats");
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  feats.expect("max_pool: feats", dtype, {-1, -1}, device);
  out.expect("max_pool: out", dtype, {-1, channels}, device);
  argmax.expect("max_pool: argmax", DType::kInt32, {out.shape[0], channels}, device);
  const PairArrays arrays{in_index, out_index, tile_ptr, tile_rows};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const CheckedPairs pairs = described_pairs(arrays, feats.shape[0], out.shape[0], "max_pool");
      return dispatch<Floating>(dtype, "max_pool: feats", [&](auto tag) {
        using S = decltype(tag);
        const MaxPool<S> task{pairs, feats.as<S>(), out.as<S>(), argmax.as<int32_t>(), channels};
        CudaCall(feats, scratch)([&](const cuda::Call& call) { cuda::max_pool(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs =
      pair_tiles(arrays, feats.shape[0], out.shape[0], "max_pool", threads);
  dispatch<Plain>(dtype, "max_pool: feats", [&](auto tag) {
    using T = decltype(tag);
    cpu::max_pool(pairs, feats.as<T>(), channels, out.as<T>(), argmax.as<int32_t>(), threads);
  });
}

void max_pool_backward(const TensorView& grad_out, const TensorView& argmax,
                       const TensorView& in_index, const TensorView& out_index,
                       const TensorView& tile_ptr, int64_t tile_rows, const TensorView& grad_in,
                       const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(grad_out, "max_pool_backward: grad_out");
  const DType dtype = grad_out.dtype;
  const int64_t channels = grad_out.shape[1];
  grad_out.expect("max_pool_backward: grad_out", dtype, {-1, -1}, device);
  argmax.expect("max_pool_backward: argmax", DType::kInt32, {grad_out.shape[0], channels}, device);
  grad_in.expect("max_pool_backward: grad_in", dtype, {-1, channels}, device);
  const PairArrays arrays{in_index, out_index, tile_ptr, tile_rows};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const CheckedPairs pairs =
          described_pairs(arrays, grad_out.shape[0], grad_in.shape[0], "max_pool_backward");
      return dispatch<Floating>(dtype, "max_pool_backward: grad_out", [&](auto tag) {
        using S = decltype(tag);
        const MaxPoolBackward<S> task{pairs, grad_out.as<S>(), argmax.as<int32_t>(),
                                      grad_in.as<S>(), channels};
        CudaCall(grad_out,
                 scratch)([&](const cuda::Call& call) { cuda::max_pool_backward(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs =
      pair_tiles(arrays, grad_out.shape[0], grad_in.shape[0], "max_pool_backward", threads);
  dispatch<Plain>(dtype, "max_pool_backward: grad_out", [&](auto tag) {
    using T = decltype(tag);
    cpu::max_pool_backward(pairs, grad_out.as<T>(), argmax.as<int32_t>(), channels, grad_in.as<T>(),
                           threads);
  });
}

}  // namespace

void register_max_pool(py::module_& module) {
  module.def("max_pool", &max_pool, py::arg("feats"), py::arg("in_index"), py::arg("out_index"),
             py::arg("tile_ptr"), py::arg("tile_rows"), py::arg("out"), py::arg("argmax"),
             py::arg("scratch"), py::arg("threads"));
  module.def("max_pool_backward", &max_pool_backward, py::arg("grad_out"), py::arg("argmax"),
             py::arg("in_index"), py::arg("out_index"), py::arg("tile_ptr"), py::arg("tile_rows"),
             py::arg("grad_in"), py::arg("scratch"), py::arg("threads"));
}

}  // namespace tsl::bind
