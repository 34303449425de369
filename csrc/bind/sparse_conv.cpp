// SPDX-License-Identifier: MIT
#include "cpu/sparse_conv.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"

namespace tsl::bind {
namespace {

const cpu::SimdKernels& kernels_named(const std::optional<std::string>& name) {
  for (auto table = cpu::available_simd_kernels(); *table; ++table) {
    if (!name || *name == (*table)->name) return **table;
  }
  throw ValueError(message("sparse_conv: simd must be one that simd_kernels() lists, got '", *name,
                           "'. Leave it out for the best."));
}

const auto& kernels_for(float, const cpu::SimdKernels& kernels) { return kernels.f32; }
const auto& kernels_for(double, const cpu::SimdKernels& kernels) { return kernels.f64; }
const auto& kernels_for(BFloat16, const cpu::SimdKernels& kernels) { return kernels.bf16; }
const auto& kernels_for(Float16, const cpu::SimdKernels& kernels) { return kernels.f16; }

void check_groups(int groups, int64_t in_channels, int64_t out_channels, const char* function) {
  TSL_CHECK(groups > 0 && in_channels % groups == 0 && out_channels % groups == 0, ValueError,
            function, ": groups must divide in_channels (", in_channels, ") and out_channels (",
            out_channels, "), got ", groups, ". Pick a common divisor.");
}

/// A full tap pairs every output row, so that its products need not be added to zeros.
void check_full_tap(const cpu::PairTiles& pairs, int full_tap) {
  if (full_tap == -1) return;
  const bool is_tap = full_tap >= 0 && full_tap < pairs.kernel_volume;
  const int64_t found =
      is_tap ? pairs.first_pair(pairs.num_tiles(), full_tap) - pairs.first_pair(0, full_tap) : 0;
  TSL_CHECK(is_tap && found == pairs.num_out, ValueError,
            "sparse_conv: full_tap must be a tap with a pair for each of the ", pairs.num_out,
            " output rows, got tap ", full_tap, " with ", found, ". Leave it out: -1.");
}

void sparse_conv(const TensorView& feats, const TensorView& weight,
                 const std::optional<TensorView>& bias, const std::optional<TensorView>& residual,
                 const TensorView& in_index, const TensorView& out_index,
                 const TensorView& tile_ptr, int64_t tile_rows, int groups, bool transposed,
                 bool mirrored, int full_tap, bool relu, const TensorView& out, int threads,
                 const std::optional<std::string>& simd) {
  const int64_t num_out = out.shape[0];
  const int64_t volume = weight.shape[0];
  const DType dtype = feats.dtype;
  feats.expect("sparse_conv: feats", dtype, {-1, -1});
  out.expect("sparse_conv: out", dtype, {-1, -1});
  const int64_t in_channels = feats.shape[1];
  const int64_t out_channels = out.shape[1];
  check_groups(groups, in_channels, out_channels, "sparse_conv");
  const int64_t stored_columns = transposed ? in_channels : out_channels;
  const int64_t stored_rows = (transposed ? out_channels : in_channels) / groups;
  weight.expect("sparse_conv: weight", dtype, {-1, stored_rows, stored_columns});
  if (bias) bias->expect("sparse_conv: bias", dtype, {out_channels});
  if (residual) residual->expect("sparse_conv: residual", dtype, {num_out, out_channels});
  tile_ptr.expect("sparse_conv: tile_ptr", DType::kInt64, {-1, volume});
  const cpu::WeightLayout layout{static_cast<int>(volume),
                                 groups,
                                 static_cast<int>(in_channels / groups),
                                 static_cast<int>(out_channels / groups),
                                 transposed,
                                 mirrored};
  const cpu::SimdKernels& kernels = kernels_named(simd);
  const py::gil_scoped_release release;
  const cpu::PairTiles pairs = pair_tiles({in_index, out_index, tile_ptr, tile_rows},
                                          feats.shape[0], num_out, "sparse_conv", threads);
  check_full_tap(pairs, full_tap);
  dispatch<Floating>(dtype, "sparse_conv: feats", [&](auto tag) {
    using S = decltype(tag);
    const cpu::ConvArguments<S> arguments{pairs,
                                          feats.as<S>(),
                                          out.as<S>(),
                                          weight.as<S>(),
                                          bias ? bias->as<S>() : nullptr,
                                          residual ? residual->as<S>() : nullptr,
                                          layout,
                                          full_tap,
                                          relu};
    cpu::sparse_conv(arguments, kernels_for(tag, kernels), threads);
  });
}

void sparse_conv_weight_grad(const TensorView& feats, const TensorView& grad_out,
                             const TensorView& in_index, const TensorView& out_index,
                             const TensorView& tile_ptr, int64_t tile_rows, int groups,
                             const TensorView& grad_weight, int threads,
                             const std::optional<std::string>& simd) {
  const DType dtype = feats.dtype;
  feats.expect("sparse_conv_weight_grad: feats", dtype, {-1, -1});
  grad_out.expect("sparse_conv_weight_grad: grad_out", dtype, {-1, -1});
  const int64_t volume = grad_weight.shape[0];
  const int64_t out_channels = grad_out.shape[1];
  check_groups(groups, feats.shape[1], out_channels, "sparse_conv_weight_grad");
  const int64_t cin = feats.shape[1] / groups;
  grad_weight.expect("sparse_conv_weight_grad: grad_weight", sum_dtype(dtype),
                     {-1, cin, out_channels});
  tile_ptr.expect("sparse_conv_weight_grad: tile_ptr", DType::kInt64, {-1, volume});
  const cpu::SimdKernels& kernels = kernels_named(simd);
  const py::gil_scoped_release release;
  // Lists read backwards (tiles over the other side) will do as well.
  const cpu::PairTiles pairs =
      untiled_pairs({in_index, out_index, tile_ptr, tile_rows}, feats.shape[0], grad_out.shape[0],
                    "sparse_conv_weight_grad", threads);
  dispatch<Floating>(dtype, "sparse_conv_weight_grad: feats", [&](auto tag) {
    using S = decltype(tag);
    using A = SumType<S>;
    const cpu::WeightGradArguments<S, A> arguments{pairs,
                                                   feats.as<S>(),
                                                   grad_out.as<S>(),
                                                   grad_weight.as<A>(),
                                                   groups,
                                                   static_cast<int>(cin),
                                                   static_cast<int>(out_channels / groups)};
    cpu::sparse_conv_weight_grad(arguments, kernels_for(tag, kernels), threads);
  });
}

}  // namespace

void register_sparse_conv(py::module_& module) {
  module.def("sparse_conv", &sparse_conv, py::arg("feats"), py::arg("weight"), py::arg("bias"),
             py::arg("residual"), py::arg("in_index"), py::arg("out_index"), py::arg("tile_ptr"),
             py::arg("tile_rows"), py::arg("groups"), py::arg("transposed"), py::arg("mirrored"),
             py::arg("full_tap"), py::arg("relu"), py::arg("out"), py::arg("threads"),
             py::arg("simd") = py::none());
  module.def("sparse_conv_weight_grad", &sparse_conv_weight_grad, py::arg("feats"),
             py::arg("grad_out"), py::arg("in_index"), py::arg("out_index"), py::arg("tile_ptr"),
             py::arg("tile_rows"), py::arg("groups"), py::arg("grad_weight"), py::arg("threads"),
             py::arg("simd") = py::none());
}

}  // namespace tsl::bind
