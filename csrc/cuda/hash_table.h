// SPDX-License-Identifier: MIT
// The hash table on the GPU: the same functors as on the CPU, launched on the caller's stream.
#pragma once

#include <cstdint>

#include "kernels/hash_insert.h"
#include "kernels/hash_lookup.h"

namespace tsl::cuda {

/// Clears the table and inserts `count` coordinates. `stream` is a cudaStream_t.
void hash_build(const HashInsert& insert, int64_t count, int device, void* stream);

void hash_lookup(const HashLookup& lookup, int64_t count, int device, void* stream);

}  // namespace tsl::cuda
