// SPDX-License-Identifier: MIT
// What an operator of several passes is written against.
//
// Such an operator is a function template over an executor, which runs the passes one after the
// other. On the GPU that is cuda::Executor; the tests have one for the CPU, so the very same passes
// are checked where there is no GPU. An executor offers
//
//   take(bytes)                             memory, uninitialised, that lives as long as the call
//   for_each(count, functor)                functor(i) for every i in [0, count)
//   for_each_block(count, functor)          functor(block, i), likewise; a block of threads an item
//   exclusive_sum(values, count)            in place
//   sort(keys, spare, count)                ascending; returns where the result is: either array
//   sort_pairs(keys, spare_keys, values, spare_values, count, bits)
//                                           by the low bits of the keys, stable; likewise
//   read<n>(values)                         n values on the host; waits for the passes before
//   has_capacity(), capacity(), overflow()  see below
//
// and a block of threads
//
//   threads()                               how many there are
//   once(run)                               run() by one of them
//   reduce(visit, combine)                  visit(thread) of all of them, combined in any order; it
//                                           waits for all, and each gets the result
// Every thread runs the functor. Between two of these calls, what one thread writes the others may
// not read.
//
// Under a capacity nothing waits for the device, so that a whole inference can be recorded as a
// CUDA graph. A result whose size the data decide then has `capacity` rows: the live ones, and
// behind them dead ones (core/coord.h). `overflow` is a flag on the device. It is raised where a
// result does not fit, or where a call without a capacity would have refused its arguments; then
// results are of no use, but every index in them still points into its array. Only settle() asks
// whether there is a capacity, who writes what stands behind the live rows, and quantize and
// unique_coords, which without one refuse dead rows; all others pass over them in any case.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

#include "core/coord.h"
#include "core/macros.h"

namespace tsl {

constexpr int64_t kScratchAlignment = 256;

template <class T>
int64_t scratch_bytes(int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}

/// One array for each type, cut from one piece of memory.
template <class... T, class Executor>
std::tuple<T*...> scratch(Executor& executor, const std::array<int64_t, sizeof...(T)>& counts) {
  std::array<int64_t, sizeof...(T)> begins{};
  int64_t bytes = 0;
  size_t array = 0;
  const auto place = [&](int64_t size) {
    begins[array++] = bytes;
    bytes += size;
  };
  (place(scratch_bytes<T>(counts[array])), ...);
  char* const memory = static_cast<char*>(executor.take(bytes));
  std::tuple<T*...> arrays;
  array = 0;
  std::apply([&](T*&... to) { ((to = reinterpret_cast<T*>(memory + begins[array++])), ...); },
             arrays);
  return arrays;
}

/// Raises the flag unless the first value is at most what is expected, and the others are that.
template <size_t n, class T>
struct RaiseOverflow {
  const T* values;
  int64_t expected[n];
  int32_t* overflow;

  TSL_HOST_DEVICE void operator()(int64_t) const {
    bool fits = values[0] <= expected[0];
    for (size_t i = 1; i < n; ++i) fits = fits && values[i] == expected[i];
    if (!fits) *overflow = 1;
  }
};

/// The values, a size and what goes with it, on the host, or `expected` under a capacity: then
/// nothing waits, and the device raises the flag if the size is larger or another value differs.
template <size_t n, class Executor, class T>
std::array<int64_t, n> settle(Executor& executor, const T* values,
                              const std::array<int64_t, n>& expected) {
  std::array<int64_t, n> settled = expected;
  if (executor.has_capacity()) {
    RaiseOverflow<n, T> raise{values, {}, executor.overflow()};
    std::copy(expected.begin(), expected.end(), raise.expected);
    executor.for_each(1, raise);
  } else {
    const std::array<T, n> read = executor.template read<n>(values);
    std::copy(read.begin(), read.end(), settled.begin());
  }
  return settled;
}

/// Where a sort has left its result.
template <class Key, class Value>
struct SortedPairs {
  const Key* keys;
  const Value* values;
};

template <class T>
struct Fill {
  T* values;
  T value;

  TSL_HOST_DEVICE void operator()(int64_t i) const { values[i] = value; }
};

/// begins[i] = 1 where item i begins a run; one item more than there are, which begins none.
template <class BeginsRun>
struct MarkRuns {
  BeginsRun begins_run;
  int64_t count;
  int32_t* begins;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    begins[i] = i < count && begins_run(i) ? 1 : 0;
  }
};

/// Runs of consecutive items, numbered. Those from `room` on are not written.
struct Runs {
  const int32_t* before;  // (count + 1,) runs that begin before item i; the last is their number
  int64_t count;
  int64_t room;

  TSL_HOST_DEVICE int32_t size() const { return before[count]; }
  TSL_HOST_DEVICE bool begins(int64_t i) const { return before[i + 1] != before[i]; }
  TSL_HOST_DEVICE int32_t run_of(int64_t i) const { return before[i + 1] - 1; }
  /// The run of an item, and 0 where there is no room for it.
  TSL_HOST_DEVICE int32_t written_run_of(int64_t i) const {
    return run_of(i) < room ? run_of(i) : 0;
  }
};

/// Fills before (count + 1,).
template <class Executor, class BeginsRun>
Runs number_runs(Executor& executor, int64_t count, const BeginsRun& begins_run, int32_t* before) {
  executor.for_each(count + 1, MarkRuns<BeginsRun>{begins_run, count, before});
  executor.exclusive_sum(before, count + 1);
  return Runs{before, count, executor.has_capacity() ? executor.capacity() : count};
}

/// What stands behind the last run where there is room for more: dead coordinates, and of `ptr`,
/// where the end of the last run is already, empty ranges. An item is a run, and one item more.
template <class Ptr>
struct WriteDead {
  Runs runs;
  Coord* coords;  // (room,)
  Ptr* ptr;       // (room + 1,) or null

  TSL_HOST_DEVICE void operator()(int64_t run) const {
    if (run >= runs.size() && run < runs.room) coords[run] = dead_coord();
    if (ptr && run > runs.size()) ptr[run] = ptr[runs.size()];
  }
};

template <class Ptr = int64_t, class Executor>
void write_dead(Executor& executor, const Runs& runs, Coord* coords, Ptr* ptr = nullptr) {
  if (executor.has_capacity()) executor.for_each(runs.room + 1, WriteDead<Ptr>{runs, coords, ptr});
}

}  // namespace tsl
