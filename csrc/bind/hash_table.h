// SPDX-License-Identifier: MIT
#pragma once

#include "bind/tensor_view.h"
#include "core/hash_table.h"

namespace tsl::bind {

/// Checks the two buffers of a table, (capacity + 1,) each; `function` starts the message.
HashTableView table_of(const TensorView& keys, const TensorView& rows, const char* function,
                       dlpack::DeviceType device);

}  // namespace tsl::bind
