// SPDX-License-Identifier: MIT
#include "cuda/columns.h"

#include <pybind11/stl.h>

#include <optional>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/module.h"
#include "cpu/reduce.h"

namespace tsl::bind {
namespace {

/// What operators on whole columns take on the CPU.
using Columns = Types<float, double, BFloat16>;

void column_sums(const TensorView& a, const std::optional<TensorView>& b, const TensorView& sum,
                 const std::optional<TensorView>& product, const py::function& scratch,
                 int threads) {
  const dlpack::DeviceType device = device_of(a, "column_sums: a");
  const DType dtype = a.dtype;
  const int64_t rows = a.shape[0];
  const int64_t channels = a.shape[1];
  a.expect("column_sums: a", dtype, {-1, -1}, device);
  if (b) b->expect("column_sums: b", dtype, {rows, channels}, device);
  sum.expect("column_sums: sum", DType::kFloat64, {channels}, device);
  TSL_CHECK(b.has_value() == product.has_value(), ValueError,
            "column_sums: product must be given with b, got one without the other. Pass both.");
  if (product) product->expect("column_sums: product", DType::kFloat64, {channels}, device);
  double* const products = product ? product->as<double>() : nullptr;
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return dispatch<Floating>(dtype, "column_sums: a", [&](auto tag) {
        using S = decltype(tag);
        const ColumnSums<S> task{
            a.as<S>(), b ? b->as<S>() : nullptr, sum.as<double>(), products, rows, channels};
        CudaCall(a, scratch)([&](const cuda::Call& call) { cuda::column_sums(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  dispatch<Columns>(dtype, "column_sums: a", [&](auto tag) {
    using S = decltype(tag);
    cpu::column_sums(a.as<S>(), b ? b->as<S>() : nullptr, rows, channels, sum.as<double>(),
                     products, threads);
  });
}

void column_moments(const TensorView& feats, const TensorView& mean, const TensorView& variance,
                    const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(feats, "column_moments: feats");
  const DType dtype = feats.dtype;
  const int64_t rows = feats.shape[0];
  const int64_t channels = feats.shape[1];
  feats.expect("column_moments: feats", dtype, {-1, -1}, device);
  mean.expect("column_moments: mean", DType::kFloat64, {channels}, device);
  variance.expect("column_moments: variance", DType::kFloat64, {channels}, device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return dispatch<Floating>(dtype, "column_moments: feats", [&](auto tag) {
        using S = decltype(tag);
        const ColumnMoments<S> task{feats.as<S>(), mean.as<double>(), variance.as<double>(), rows,
                                    channels};
        CudaCall(feats, scratch)([&](const cuda::Call& call) { cuda::column_moments(call, task); });
      });
    }
  }
  const py::gil_scoped_release release;
  dispatch<Columns>(dtype, "column_moments: feats", [&](auto tag) {
    using S = decltype(tag);
    cpu::column_moments(feats.as<S>(), rows, channels, mean.as<double>(), variance.as<double>(),
                        threads);
  });
}

/// What scale_shift is given: one factor per column, in the type of the sums.
struct ScaleShiftTensors {
  const TensorView& x;
  const TensorView& scale;
  const std::optional<TensorView>& shift;
  const std::optional<TensorView>& other;
  const std::optional<TensorView>& other_scale;
  const TensorView& out;

  void check(dlpack::DeviceType device) const {
    const DType wide = sum_dtype(x.dtype);
    x.expect("scale_shift: x", x.dtype, {-1, -1}, device);
    const int64_t channels = x.shape[1];
    scale.expect("scale_shift: scale", wide, {channels}, device);
    if (shift) shift->expect("scale_shift: shift", wide, {channels}, device);
    TSL_CHECK(other.has_value() == other_scale.has_value(), ValueError,
              "scale_shift: other_scale must be given with other, got one without the other. ",
              "Pass both.");
    if (other) other->expect("scale_shift: other", x.dtype, {x.shape[0], channels}, device);
    if (other_scale) other_scale->expect("scale_shift: other_scale", wide, {channels}, device);
    out.expect("scale_shift: out", x.dtype, {x.shape[0], channels}, device);
  }

  template <class S>
  ScaleShift<S> task() const {
    using A = SumType<S>;
    return ScaleShift<S>{
        {x.as<S>(), scale.as<A>()},
        {other ? other->as<S>() : nullptr, other_scale ? other_scale->as<A>() : nullptr},
        shift ? shift->as<A>() : nullptr,
        out.as<S>(),
        x.shape[0],
        x.shape[1]};
  }
};

void scale_shift(const TensorView& x, const TensorView& scale,
                 const std::optional<TensorView>& shift, const std::optional<TensorView>& other,
                 const std::optional<TensorView>& other_scale, const TensorView& out, int threads) {
  const dlpack::DeviceType device = device_of(x, "scale_shift: x");
  const ScaleShiftTensors tensors{x, scale, shift, other, other_scale, out};
  tensors.check(device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      void* const stream = current_stream(x);
      const py::gil_scoped_release release;
      return dispatch<Floating>(x.dtype, "scale_shift: x", [&](auto tag) {
        cuda::scale_shift(tensors.task<decltype(tag)>(), x.device.id, stream);
      });
    }
  }
  const py::gil_scoped_release release;
  dispatch<Columns>(x.dtype, "scale_shift: x",
                    [&](auto tag) { cpu::scale_shift(tensors.task<decltype(tag)>(), threads); });
}

}  // namespace

void register_columns(py::module_& module) {
  module.def("column_sums", &column_sums, py::arg("a"), py::arg("b"), py::arg("sum"),
             py::arg("product"), py::arg("scratch"), py::arg("threads"));
  module.def("column_moments", &column_moments, py::arg("feats"), py::arg("mean"),
             py::arg("variance"), py::arg("scratch"), py::arg("threads"));
  module.def("scale_shift", &scale_shift, py::arg("x"), py::arg("scale"), py::arg("shift"),
             py::arg("other"), py::arg("other_scale"), py::arg("out"), py::arg("threads"));
}

}  // namespace tsl::bind
