// SPDX-License-Identifier: MIT
#include "cuda/coords.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class T>
QuantizeResult quantize(const Call& call, const Quantize<T>& rows, int64_t count) {
  Executor executor(call);
  return tsl::quantize(executor, rows, count);
}

template QuantizeResult quantize<float>(const Call&, const Quantize<float>&, int64_t);
template QuantizeResult quantize<double>(const Call&, const Quantize<double>&, int64_t);

OutOfRange first_out_of_range(const Call& call, const Coord* coords, int64_t count) {
  Executor executor(call);
  OutOfRange found;
  found.row = tsl::first_out_of_range(executor, coords, count);
  if (found.row != kNoRow) found.coord = executor.read<1>(coords + found.row)[0];
  return found;
}

bool is_morton_ordered(const Call& call, const Coord* coords, int64_t count) {
  Executor executor(call);
  return tsl::is_morton_ordered(executor, coords, count);
}

int64_t unique_coords(const Call& call, const Coord* coords, int64_t count, const UniqueArrays& out,
                      const AllocateUnique& allocate) {
  Executor executor(call);
  return tsl::unique_coords(executor, coords, count, out, allocate);
}

void coarsen(const Call& call, const Coord* coords, int64_t count, const CoarsenedArrays& out,
             const AllocateCoarsened& allocate) {
  Executor executor(call);
  tsl::coarsen(executor, coords, count, out, allocate);
}

}  // namespace tsl::cuda
