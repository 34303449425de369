// SPDX-License-Identifier: MIT
// How a pass refuses arrays that do not belong together, before it addresses anything with them.
//
// The host throws. A kernel cannot throw, and nobody waits for it, so it ends the way torch's own
// index checks do: the message goes to the standard error, and the next call of CUDA fails.
#pragma once

#include <cassert>
#include <cstdint>

#include "core/check.h"
#include "core/macros.h"

namespace tsl {

/// Does not return. `rule` is "<function>: <argument> must be <rule>".
TSL_HOST_DEVICE void refuse_row(const char* rule, int64_t row, const char* remedy) {
#ifdef __CUDA_ARCH__
  __assert_fail(rule, "torchsparse_lite: row ", static_cast<unsigned>(row), remedy);
#else
  throw ValueError(message(rule, ", got another in row ", row, ". ", remedy));
#endif
}

}  // namespace tsl
