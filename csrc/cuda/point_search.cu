// SPDX-License-Identifier: MIT
// Compiled without fused multiply-add, so that the distances are those of the CPU to the last bit.
#include "cuda/point_search.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class T>
void furthest_points(const Call& call, const CloudRows<T>& clouds, const FurthestPoints<T>& search,
                     int64_t num_samples) {
  Executor executor(call);
  tsl::furthest_points(executor, clouds, search, num_samples);
}

template <class T, template <class> class Search>
void search_points(const Call& call, const CloudRows<T>& clouds, const Search<T>& search,
                   int64_t num_queries) {
  Executor executor(call);
  tsl::search_points(executor, clouds, search, num_queries);
}

#define TSL_INSTANTIATE(T)                                                                     \
  template void furthest_points(const Call&, const CloudRows<T>&, const FurthestPoints<T>&,    \
                                int64_t);                                                      \
  template void search_points(const Call&, const CloudRows<T>&, const BallQuery<T>&, int64_t); \
  template void search_points(const Call&, const CloudRows<T>&, const NearestPoints<T>&, int64_t);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
