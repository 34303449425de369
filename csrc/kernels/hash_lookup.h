// SPDX-License-Identifier: MIT
// Item i looks coordinate i up; coordinates outside the representable range are simply not there.
#pragma once

#include <cstdint>

#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"

namespace tsl {

struct HashLookup {
  const Coord* coords;
  HashTableView table;
  int64_t* rows;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    rows[i] = in_range(coords[i]) ? table.find(packed_key(coords[i])) : kNoRow;
  }
};

}  // namespace tsl
