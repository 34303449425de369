// SPDX-License-Identifier: MIT
// Item i puts coordinate i into the table; of equal coordinates the first row stays. Dead rows are
// left out.
#pragma once

#include <cstdint>

#include "core/coord.h"
#include "core/hash_table.h"
#include "core/macros.h"

namespace tsl {

struct HashInsert {
  const Coord* coords;
  HashTableView table;

  /// The table holds at least twice as many slots as coordinates, so there is always room.
  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (is_dead(coords[i])) return;
    table.insert(packed_key(coords[i]), static_cast<int32_t>(i));
  }
};

}  // namespace tsl
