// SPDX-License-Identifier: MIT
#include "cpu/coords.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bind/allocate.h"
#include "bind/coords.h"
#include "bind/device.h"
#include "bind/module.h"
#include "cpu/parallel.h"
#include "cuda/coords.h"
#include "kernels/coarsen.h"

namespace tsl::bind {

namespace {

[[noreturn]] void refuse_range(const std::string& function, int64_t row, const Coord& c) {
  throw ValueError(message(function, ": coords must have batch in 0..", kBatchMax,
                           " and x, y, z in [", kAxisMin, ", ", kAxisMax, "], got (", c.batch, ", ",
                           c.x, ", ", c.y, ", ", c.z, ") in row ", row,
                           ". Columns are batch, x, y, z; use larger voxels or shift the cloud."));
}

}  // namespace

void check_range(const TensorView& coords, const std::string& function, int threads) {
  const Coord* const data = coords.coords("check_range: coords");
  int64_t bad;
  {
    const py::gil_scoped_release release;
    bad = cpu::first_out_of_range(data, coords.shape[0], threads);
  }
  if (bad != cpu::kNoBadRow) refuse_range(function, bad, data[bad]);
}

void check_live_range(const TensorView& coords, const std::string& function, int threads) {
  const Coord* const data = coords.as<Coord>();
  int64_t bad;
  {
    const py::gil_scoped_release release;
    bad = cpu::find_first(coords.shape[0], threads,
                          [&](int64_t row) { return !is_dead(data[row]) && !in_range(data[row]); });
  }
  if (bad != cpu::kNoBadRow) refuse_range(function, bad, data[bad]);
}

namespace {

void check_range_on(const TensorView& coords, const std::string& function,
                    const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(coords, "check_range: coords");
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const Coord* const data = coords.coords("check_range: coords", device);
      const auto found = CudaCall(coords, scratch)([&](const cuda::Call& call) {
        return cuda::first_out_of_range(call, data, coords.shape[0]);
      });
      if (found.row != kNoRow) refuse_range(function, found.row, found.coord);
      return;
    }
  }
  check_range(coords, function, threads);
}

void quantize(const TensorView& points, const std::optional<TensorView>& batch,
              const std::array<double, 3>& voxel_size, const std::array<double, 3>& origin,
              const TensorView& coords, const py::function& scratch, int threads,
              const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(points, "quantize: points");
  const int64_t count = points.shape[0];
  const Capacity room = overflow ? capacity_of(count, overflow, "quantize", device) : Capacity{};
  const int32_t* const batch_data =
      batch ? batch->expect("quantize: batch", DType::kInt32, {count}, device).as<int32_t>()
            : nullptr;
  coords.expect("quantize: coords", DType::kInt32, {count, 4}, device);
  coords.coords("quantize: coords", device);
  Coord* const out = coords.as<Coord>();
  const bool is_double = points.dtype == DType::kFloat64;
  points.expect("quantize: points", is_double ? DType::kFloat64 : DType::kFloat32, {-1, 3}, device);
  const auto run = [&](const auto* xyz) {
    if constexpr (kHasCuda) {
      if (device == dlpack::kCuda) {
        const auto rows = quantizer(xyz, batch_data, voxel_size.data(), origin.data(), out);
        return CudaCall(points, scratch, room)(
            [&](const cuda::Call& call) { return cuda::quantize(call, rows, count); });
      }
    }
    const py::gil_scoped_release release;
    return cpu::quantize(xyz, batch_data, count, voxel_size.data(), origin.data(), out, threads);
  };
  const QuantizeResult result = is_double ? run(points.as<double>()) : run(points.as<float>());
  if (result.bad_row == cpu::kNoBadRow) return;
  TSL_CHECK(result.is_finite, ValueError,
            "quantize: points must be finite, got NaN or infinity in row ", result.bad_row,
            ". Drop such points first, for example with torch.isfinite.");
  throw ValueError(message("quantize: points must fall into voxels [", kAxisMin, ", ", kAxisMax,
                           "] and batch 0..", kBatchMax, ", got another in row ", result.bad_row,
                           ". Use larger voxels, another origin, or crop the cloud."));
}

bool is_morton_ordered(const TensorView& coords, const py::function& scratch, int threads) {
  const dlpack::DeviceType device = device_of(coords, "is_morton_ordered: coords");
  const Coord* const data = coords.coords("is_morton_ordered: coords", device);
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      return CudaCall(coords, scratch)([&](const cuda::Call& call) {
        return cuda::is_morton_ordered(call, data, coords.shape[0]);
      });
    }
  }
  const py::gil_scoped_release release;
  return cpu::is_morton_ordered(data, coords.shape[0], threads);
}

void unique_coords(const TensorView& coords, const TensorView& point_to_voxel,
                   const TensorView& order, const py::function& allocator,
                   const py::function& scratch, int threads, int64_t capacity,
                   const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(coords, "unique_coords: coords");
  const Capacity room = capacity_of(capacity, overflow, "unique_coords", device);
  const int64_t count = coords.shape[0];
  const Coord* const data = coords.coords("unique_coords: coords", device);
  UniqueArrays out{};
  out.point_to_voxel =
      point_to_voxel.expect("unique_coords: point_to_voxel", DType::kInt64, {count}, device)
          .as<int64_t>();
  out.order = order.expect("unique_coords: order", DType::kInt64, {count}, device).as<int64_t>();
  const auto allocate_groups = [&](int64_t groups, UniqueArrays* arrays) {
    const py::gil_scoped_acquire acquire;
    const auto [voxels, ptr] = allocate<2>(allocator, groups);
    voxels.expect("unique_coords: voxels", DType::kInt32, {groups, 4}, device);
    ptr.expect("unique_coords: ptr", DType::kInt64, {groups + 1}, device);
    arrays->voxels = voxels.as<Coord>();
    arrays->ptr = ptr.as<int64_t>();
  };
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      const int64_t bad_row = CudaCall(coords, scratch, room)([&](const cuda::Call& call) {
        return cuda::unique_coords(call, data, count, out, allocate_groups);
      });
      if (bad_row != kNoRow) check_range_on(coords, "unique_coords", scratch, threads);
      return;
    }
  }
  const py::gil_scoped_release release;
  const cpu::UniqueCoords unique = cpu::unique_coords(data, count, threads);
  if (!unique.all_in_range) {
    const py::gil_scoped_acquire acquire;
    check_range(coords, "unique_coords", threads);
  }
  const int64_t groups = static_cast<int64_t>(unique.group_ptr.size()) - 1;
  allocate_groups(groups, &out);
  std::copy(unique.group_ptr.begin(), unique.group_ptr.end(), out.ptr);
  cpu::for_each(groups, threads, [&](int64_t group) {
    for (int64_t i = out.ptr[group]; i < out.ptr[group + 1]; ++i) {
      out.order[i] = unique.order[static_cast<size_t>(i)];
      out.point_to_voxel[out.order[i]] = group;
    }
    out.voxels[group] = data[out.order[out.ptr[group]]];
  });
}

void coarsen(const TensorView& coords, const TensorView& parent, const py::function& allocator,
             const py::function& scratch, int threads, int64_t capacity,
             const std::optional<TensorView>& overflow) {
  const dlpack::DeviceType device = device_of(coords, "coarsen: coords");
  const Capacity room = capacity_of(capacity, overflow, "coarsen", device);
  const int64_t count = coords.shape[0];
  const Coord* const data = coords.coords("coarsen: coords", device);
  CoarsenedArrays out{};
  out.parent = parent.expect("coarsen: parent", DType::kInt32, {count}, device).as<int32_t>();
  const auto allocate_cells = [&](int64_t cells, CoarsenedArrays* arrays) {
    const py::gil_scoped_acquire acquire;
    const auto [coarse, ptr, mask] = allocate<3>(allocator, cells);
    coarse.expect("coarsen: coarse", DType::kInt32, {cells, 4}, device);
    ptr.expect("coarsen: child_ptr", DType::kInt32, {cells + 1}, device);
    mask.expect("coarsen: child_mask", DType::kUInt8, {cells}, device);
    arrays->coarse = coarse.as<Coord>();
    arrays->child_ptr = ptr.as<int32_t>();
    arrays->child_mask = mask.as<uint8_t>();
  };
  if constexpr (kHasCuda) {
    if (device == dlpack::kCuda) {
      CudaCall(coords, scratch, room)(
          [&](const cuda::Call& call) { cuda::coarsen(call, data, count, out, allocate_cells); });
      return;
    }
  }
  const py::gil_scoped_release release;
  const cpu::Coarsened coarsened = cpu::coarsen(data, count, threads);
  const int64_t cells = static_cast<int64_t>(coarsened.child_mask.size());
  allocate_cells(cells, &out);
  std::copy(coarsened.child_ptr.begin(), coarsened.child_ptr.end(), out.child_ptr);
  std::copy(coarsened.child_mask.begin(), coarsened.child_mask.end(), out.child_mask);
  std::fill(out.parent, out.parent + count, 0);  // of dead rows
  cpu::for_each(cells, threads, [&](int64_t cell) {
    const int32_t begin = out.child_ptr[cell];
    out.coarse[cell] = parent_of(data[begin]);
    std::fill(out.parent + begin, out.parent + out.child_ptr[cell + 1], static_cast<int32_t>(cell));
  });
}

}  // namespace

void register_coords(py::module_& module) {
  module.attr("axis_min") = kAxisMin;
  module.attr("axis_max") = kAxisMax;
  module.attr("batch_max") = kBatchMax;
  module.def("quantize", &quantize, py::arg("points"), py::arg("batch"), py::arg("voxel_size"),
             py::arg("origin"), py::arg("coords"), py::arg("scratch"), py::arg("threads"),
             py::arg("overflow") = py::none());
  module.def("check_range", &check_range_on, py::arg("coords"), py::arg("function"),
             py::arg("scratch"), py::arg("threads"));
  module.def("is_morton_ordered", &is_morton_ordered, py::arg("coords"), py::arg("scratch"),
             py::arg("threads"));
  module.def("unique_coords", &unique_coords, py::arg("coords"), py::arg("point_to_voxel"),
             py::arg("order"), py::arg("allocate"), py::arg("scratch"), py::arg("threads"),
             py::arg("capacity") = -1, py::arg("overflow") = py::none());
  module.def("coarsen", &coarsen, py::arg("coords"), py::arg("parent"), py::arg("allocate"),
             py::arg("scratch"), py::arg("threads"), py::arg("capacity") = -1,
             py::arg("overflow") = py::none());
}

}  // namespace tsl::bind
