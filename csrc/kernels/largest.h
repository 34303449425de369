// SPDX-License-Identifier: MIT
// The largest of several numbers and where it comes from: of equal ones the first, and NaN is
// larger than everything, as in torch.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace tsl {

template <class A>
TSL_HOST_DEVICE bool beats(A candidate, A best) {
  return candidate > best || (candidate != candidate && best == best);
}

/// Of numbers that are offered in order; nothing yet: 0 and -1.
template <class A, class Index>
struct Largest {
  A value = 0;
  Index row = -1;

  TSL_HOST_DEVICE void offer(A candidate, Index from) {
    if (row >= 0 && !beats(candidate, value)) return;
    value = candidate;
    row = from;
  }
  TSL_HOST_DEVICE void merge(const Largest& later) {
    if (later.row >= 0) offer(later.value, later.row);
  }
};

}  // namespace tsl
