// SPDX-License-Identifier: MIT
#pragma once

#include <array>

#include "bind/tensor_view.h"
#include "core/hash_table.h"

namespace tsl::bind {

/// The three buffers of a table: keys and rows (capacity + 1,), filter (capacity / 4,).
using TableTensors = std::array<TensorView, 3>;

/// Checks them against each other; `function` starts the message.
HashTableView table_of(const TableTensors& tensors, const char* function,
                       dlpack::DeviceType device);

}  // namespace tsl::bind
