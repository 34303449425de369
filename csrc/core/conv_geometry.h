// SPDX-License-Identifier: MIT
// The relation between fine and coarse sites. Nobody else computes it:
//
//     fine = stride * coarse + dilation * tap - padding          (per axis, tap in
//     0..kernel_size-1)
//
// It is that of torch.nn.Conv3d (cross-correlation), read from either side. "Fine" is the input of
// a strided convolution and the output of a transposed one. Taps are numbered row-major: x slowest.
#pragma once

#include <cstdint>

#include "core/coord.h"
#include "core/macros.h"

namespace tsl {

struct Tap {
  int32_t x, y, z;
};

struct ConvGeometry {
  int32_t kernel_size[3];
  int32_t stride[3];
  int32_t dilation[3];
  int32_t padding[3];

  TSL_HOST_DEVICE int32_t kernel_volume() const {
    return kernel_size[0] * kernel_size[1] * kernel_size[2];
  }

  TSL_HOST_DEVICE Tap tap(int32_t index) const {
    return Tap{index / (kernel_size[1] * kernel_size[2]), index / kernel_size[2] % kernel_size[1],
               index % kernel_size[2]};
  }

  TSL_HOST_DEVICE int64_t fine_axis(int axis, int64_t coarse, int64_t tap_axis) const {
    return stride[axis] * coarse + dilation[axis] * tap_axis - padding[axis];
  }

  /// False when the fine site lies outside the representable range.
  TSL_HOST_DEVICE bool fine_from_coarse(const Coord& coarse, const Tap& tap, Coord* fine) const {
    const int64_t x = fine_axis(0, coarse.x, tap.x);
    const int64_t y = fine_axis(1, coarse.y, tap.y);
    const int64_t z = fine_axis(2, coarse.z, tap.z);
    *fine = Coord{coarse.batch, static_cast<int32_t>(x), static_cast<int32_t>(y),
                  static_cast<int32_t>(z)};
    return axis_in_range(x) && axis_in_range(y) && axis_in_range(z);
  }

  /// False when no coarse site sees `fine` through the tap: the stride does not divide.
  TSL_HOST_DEVICE bool coarse_axis(int axis, int64_t fine, int64_t tap_axis,
                                   int64_t* coarse) const {
    const int64_t offset = fine + padding[axis] - dilation[axis] * tap_axis;
    *coarse = floor_div(offset, stride[axis]);
    return *coarse * stride[axis] == offset;
  }

  /// False when no coarse site in the representable range sees `fine` through the tap.
  TSL_HOST_DEVICE bool coarse_from_fine(const Coord& fine, const Tap& tap, Coord* coarse) const {
    int64_t x;
    int64_t y;
    int64_t z;
    const bool divides = coarse_axis(0, fine.x, tap.x, &x) & coarse_axis(1, fine.y, tap.y, &y) &
                         coarse_axis(2, fine.z, tap.z, &z);
    *coarse = Coord{fine.batch, static_cast<int32_t>(x), static_cast<int32_t>(y),
                    static_cast<int32_t>(z)};
    return divides && axis_in_range(x) && axis_in_range(y) && axis_in_range(z);
  }

  /// The cell of the coarse grid that contains `fine`: floor(fine / stride), padding left out.
  TSL_HOST_DEVICE Coord cell_of(const Coord& fine) const {
    return Coord{fine.batch, static_cast<int32_t>(floor_div(fine.x, stride[0])),
                 static_cast<int32_t>(floor_div(fine.y, stride[1])),
                 static_cast<int32_t>(floor_div(fine.z, stride[2]))};
  }

  /// Extent of the coarse grid over a fine grid of `size` sites, as torch.nn.Conv3d; at least 0.
  TSL_HOST_DEVICE int64_t coarse_extent(int axis, int64_t size) const {
    const int64_t reach =
        size + 2 * int64_t{padding[axis]} - int64_t{dilation[axis]} * (kernel_size[axis] - 1) - 1;
    return reach < 0 ? 0 : reach / stride[axis] + 1;
  }

  /// Extent of the fine grid over a coarse grid of `size` sites, as torch.nn.ConvTranspose3d; at
  /// least 0.
  TSL_HOST_DEVICE int64_t fine_extent(int axis, int64_t size) const {
    const int64_t extent = (size - 1) * stride[axis] - 2 * int64_t{padding[axis]} +
                           int64_t{dilation[axis]} * (kernel_size[axis] - 1) + 1;
    return extent < 0 ? 0 : extent;
  }
};

}  // namespace tsl
