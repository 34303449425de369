// SPDX-License-Identifier: MIT
#include "cuda/hash_table.h"

#include "cuda/for_each.cuh"

namespace tsl::cuda {
namespace {

struct ClearTable {
  HashTableView table;
  __host__ __device__ void operator()(int64_t slot) const {
    table.keys[slot] = kEmptyKey;
    table.rows[slot] = kNoRow;
    if (slot < table.filter_words()) table.filter[slot] = 0;
  }
};

}  // namespace

void hash_build(const HashInsert& insert, int64_t count, int device, void* stream) {
  const DeviceGuard guard(device);
  const int64_t slots = static_cast<int64_t>(insert.table.capacity) + 1;
  for_each(slots, static_cast<cudaStream_t>(stream), ClearTable{insert.table});
  for_each(count, static_cast<cudaStream_t>(stream), insert);
}

void hash_lookup(const HashLookup& lookup, int64_t count, int device, void* stream) {
  const DeviceGuard guard(device);
  for_each(count, static_cast<cudaStream_t>(stream), lookup);
}

}  // namespace tsl::cuda
