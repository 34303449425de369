// SPDX-License-Identifier: MIT
#include "cuda/max_pool.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

template <class S>
void max_pool(const Call& call, const MaxPool<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.feats, task.out, task.argmax},
                [&](auto width) { tsl::max_pool<decltype(width)::value>(executor, task); });
}

template <class S>
void max_pool_backward(const Call& call, const MaxPoolBackward<S>& task) {
  Executor executor(call);
  with_width<S>(task.channels, {task.grad_out, task.argmax, task.grad_in}, [&](auto width) {
    tsl::max_pool_backward<decltype(width)::value>(executor, task);
  });
}

#define TSL_INSTANTIATE(S)                                   \
  template void max_pool<S>(const Call&, const MaxPool<S>&); \
  template void max_pool_backward<S>(const Call&, const MaxPoolBackward<S>&);
TSL_FOR_FLOATING(TSL_INSTANTIATE)
#undef TSL_INSTANTIATE

}  // namespace tsl::cuda
