// SPDX-License-Identifier: MIT
// Coordinates on the GPU: the passes of kernels/, launched on the caller's stream.
#pragma once

#include <cstdint>
#include <functional>

#include "cuda/call.h"
#include "kernels/coarsen.h"
#include "kernels/quantize.h"
#include "kernels/unique_coords.h"

namespace tsl::cuda {

/// Waits for the device.
template <class T>
QuantizeResult quantize(const Call& call, const Quantize<T>& rows, int64_t count);

/// The first coordinate outside the representable range, and what it is.
struct OutOfRange {
  int64_t row = kNoRow;
  Coord coord{};
};

/// Waits for the device.
OutOfRange first_out_of_range(const Call& call, const Coord* coords, int64_t count);

/// Waits for the device.
bool is_morton_ordered(const Call& call, const Coord* coords, int64_t count);

/// Called with the number of groups, once it is known; sets what depends on it.
using AllocateUnique = std::function<void(int64_t groups, UniqueArrays* out)>;

/// The first row out of range, or kNoRow. Waits for the device once.
int64_t unique_coords(const Call& call, const Coord* coords, int64_t count, const UniqueArrays& out,
                      const AllocateUnique& allocate);

using AllocateCoarsened = std::function<void(int64_t cells, CoarsenedArrays* out)>;

/// Waits for the device once.
void coarsen(const Call& call, const Coord* coords, int64_t count, const CoarsenedArrays& out,
             const AllocateCoarsened& allocate);

}  // namespace tsl::cuda
