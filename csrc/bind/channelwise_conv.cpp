// SPDX-License-Identifier: MIT
#include "cuda/channelwise_conv.h"

#include <pybind11/stl.h>

#include <optional>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "cpu/sparse_conv.h"

namespace tsl::bind {
namespace {

template <class S>
const S* data_or_null(const std::optional<TensorView>& tensor) {
  return tensor ? tensor->as<S>() : nullptr;
}

void channelwise_conv(const TensorView& feats, const std::optional<TensorView>& weight,
                      const std::optional<TensorView>& bias,
                      const std::optional<TensorView>& residual, const TensorView& in_index,
                      const TensorView& out_index, const TensorView& tile_ptr, int64_t tile_rows,
                      bool relu, const TensorView& out, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(feats, "channelwise_conv: feats");
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  const int64_t num_out = out.shape[0];
  feats.expect("channelwise_conv: feats", dtype, {-1, -1}, device);
  out.expect("channelwise_conv: out", dtype, {-1, channels}, device);
  tile_ptr.expect("channelwise_conv: tile_ptr", DType::kInt64, {-1, -1}, device);
  if (weight) {
    weight->expect("channelwise_conv: weight", dtype, {tile_ptr.shape[1], channels}, device);
  }
  if (bias) bias->expect("channelwise_conv: bias", dtype, {channels}, device);
  if (residual) residual->expect("channelwise_conv: residual", dtype, {num_out, channels}, device);
  const PairArrays arrays{in_index, out_index, tile_ptr, tile_rows};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const CheckedPairs pairs =
          described_pairs(arrays, feats.shape[0], num_out, "channelwise_conv");
      return dispatch<Floating>(dtype, "channelwise_conv: feats", [&](auto tag) {
        using S = decltype(tag);
        const ChannelwiseConv<S> task{pairs,
                                      feats.as<S>(),
                                      data_or_null<S>(weight),
                                      data_or_null<S>(bias),
                                      data_or_null<S>(residual),
                                      out.as<S>(),
                                      channels,
                                      relu};
        CudaCall(feats,
                 scratch)([&](const cuda::Call& call) { cuda::channelwise_conv(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs =
      pair_tiles(arrays, feats.shape[0], num_out, "channelwise_conv", threads);
  dispatch<Plain>(dtype, "channelwise_conv: feats", [&](auto tag) {
    using S = decltype(tag);
    const cpu::ChannelwiseTask<S> task{pairs,
                                       feats.as<S>(),
                                       out.as<S>(),
                                       data_or_null<S>(weight),
                                       data_or_null<S>(bias),
                                       static_cast<int>(channels)};
    cpu::channelwise_conv(task, cpu::simd_kernels(), threads,
                          cpu::Epilogue<S>{data_or_null<S>(residual), relu});
  });
}

void channelwise_weight_grad(const TensorView& feats, const TensorView& grad_out,
                             const TensorView& in_index, const TensorView& out_index,
                             const TensorView& tile_ptr, int64_t tile_rows,
                             const TensorView& grad_weight, const py::function& scratch,
                             int threads) {
  const dlpack::DeviceType device = device_of(feats, "channelwise_weight_grad: feats");
  const DType dtype = feats.dtype;
  const int64_t channels = feats.shape[1];
  feats.expect("channelwise_weight_grad: feats", dtype, {-1, -1}, device);
  grad_out.expect("channelwise_weight_grad: grad_out", dtype, {-1, channels}, device);
  grad_weight.expect("channelwise_weight_grad: grad_weight", sum_dtype(dtype), {-1, channels},
                     device);
  tile_ptr.expect("channelwise_weight_grad: tile_ptr", DType::kInt64, {-1, grad_weight.shape[0]},
                  device);
  const PairArrays arrays{in_index, out_index, tile_ptr, tile_rows};
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const CheckedPairs pairs =
          described_pairs(arrays, feats.shape[0], grad_out.shape[0], "channelwise_weight_grad");
      return dispatch<Floating>(dtype, "channelwise_weight_grad: feats", [&](auto tag) {
        using S = decltype(tag);
        const ChannelwiseWeightGrad<S> task{pairs, feats.as<S>(), grad_out.as<S>(),
                                            grad_weight.as<SumType<S>>(), channels};
        CudaCall(feats, scratch)(
            [&](const cuda::Call& call) { cuda::channelwise_weight_grad(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs =
      untiled_pairs(arrays, feats.shape[0], grad_out.shape[0], "channelwise_weight_grad", threads);
  dispatch<Plain>(dtype, "channelwise_weight_grad: feats", [&](auto tag) {
    using S = decltype(tag);
    cpu::channelwise_weight_grad(pairs, feats.as<S>(), grad_out.as<S>(), static_cast<int>(channels),
                                 grad_weight.as<S>(), threads);
  });
}

}  // namespace

void register_channelwise_conv(py::module_& module) {
  module.def("channelwise_conv", &channelwise_conv, py::arg("feats"), py::arg("weight"),
             py::arg("bias"), py::arg("residual"), py::arg("in_index"), py::arg("out_index"),
             py::arg("tile_ptr"), py::arg("tile_rows"), py::arg("relu"), py::arg("out"),
             py::arg("scratch"), py::arg("threads"));
  module.def("channelwise_weight_grad", &channelwise_weight_grad, py::arg("feats"),
             py::arg("grad_out"), py::arg("in_index"), py::arg("out_index"), py::arg("tile_ptr"),
             py::arg("tile_rows"), py::arg("grad_weight"), py::arg("scratch"), py::arg("threads"));
}

}  // namespace tsl::bind
