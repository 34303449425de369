// SPDX-License-Identifier: MIT
// Passes under a capacity (kernels/passes.h): arrays whose ends are watched, and dead rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "executor.h"

namespace tsl::test {

/// As many values as were asked for, full of rubbish, with more rubbish at both ends that must
/// still be there in the end.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t size) : size_(size), values_(static_cast<size_t>(size + 2 * kGuard)) {
    std::memset(static_cast<void*>(values_.data()), kRubbish, values_.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { CHECK(is_rubbish(0) && is_rubbish(kGuard + size_)); }

  T* data() { return values_.data() + kGuard; }
  int64_t size() const { return size_; }
  T operator[](int64_t i) const { return values_[static_cast<size_t>(kGuard + i)]; }
  std::vector<T> head(int64_t rows) const {
    const auto begin = values_.begin() + kGuard;
    return std::vector<T>(begin, begin + std::min(rows, size_));
  }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr int kRubbish = 0x6b;  // as an index far outside of every array

  bool is_rubbish(int64_t from) const {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(values_.data() + from);
    return std::all_of(bytes, bytes + kGuard * static_cast<int64_t>(sizeof(T)),
                       [](unsigned char byte) { return byte == kRubbish; });
  }

  int64_t size_;
  std::vector<T> values_;
};

/// An executor whose calls have a capacity, and its flag.
struct Bounded {
  int32_t overflow = 0;
  Executor executor;

  Bounded(int threads, int64_t capacity) : executor(threads) {
    executor.set_capacity(capacity, &overflow);
  }
  Bounded(const Bounded&) = delete;
  Bounded& operator=(const Bounded&) = delete;
  ~Bounded() { CHECK_EQ(executor.waits(), 0); }
};

/// Too little room, just enough, and more.
inline std::vector<int64_t> capacities_around(int64_t rows) {
  std::vector<int64_t> capacities;
  for (const int64_t capacity : {int64_t{0}, rows / 2, rows - 1, rows, rows + 1, 2 * rows + 99}) {
    const bool is_new = std::count(capacities.begin(), capacities.end(), capacity) == 0;
    if (capacity >= 0 && is_new) capacities.push_back(capacity);
  }
  return capacities;
}

inline bool is_last_coordinate(const Coord& c) {
  return c == Coord{kBatchMax, kAxisMax, kAxisMax, kAxisMax};
}

inline bool has_last_coordinate(const Coords& coords) {
  return std::any_of(coords.begin(), coords.end(), is_last_coordinate);
}

inline Coords with_dead_rows(Coords coords, int64_t rows) {
  coords.insert(coords.end(), static_cast<size_t>(rows), dead_coord());
  return coords;
}

/// Rows from `from` on are dead.
inline void check_dead(const Guarded<Coord>& coords, int64_t from) {
  for (int64_t row = from; row < coords.size(); ++row) CHECK_EQ(coords[row], dead_coord());
}

/// Ascends from 0, by no more than there are rows.
template <class T>
void check_ptr(const Guarded<T>& ptr, int64_t rows) {
  CHECK_EQ(ptr[0], T{0});
  for (int64_t i = 1; i < ptr.size(); ++i) CHECK(ptr[i - 1] <= ptr[i]);
  CHECK(int64_t{ptr[ptr.size() - 1]} <= rows);
}

}  // namespace tsl::test
