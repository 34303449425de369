// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "bind/tensor_view.h"

namespace tsl::bind {

/// Refuses coordinates outside the representable range; `function` starts the message.
void check_range(const TensorView& coords, const std::string& function, int threads);

/// The same, but dead rows pass; type and shape are known to be right.
void check_live_range(const TensorView& coords, const std::string& function, int threads);

}  // namespace tsl::bind
