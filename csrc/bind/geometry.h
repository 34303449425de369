// SPDX-License-Identifier: MIT
// A ConvGeometry crosses the border as four triples: kernel_size, stride, dilation, padding.
#pragma once

#include <array>
#include <cstdint>

#include "core/conv_geometry.h"

namespace tsl::bind {

using GeometryTriples = std::array<std::array<int32_t, 3>, 4>;

inline ConvGeometry geometry_of(const GeometryTriples& values) {
  ConvGeometry geometry{};
  for (size_t axis = 0; axis < 3; ++axis) {
    geometry.kernel_size[axis] = values[0][axis];
    geometry.stride[axis] = values[1][axis];
    geometry.dilation[axis] = values[2][axis];
    geometry.padding[axis] = values[3][axis];
  }
  return geometry;
}

}  // namespace tsl::bind
