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
//
// and a block of threads
//
//   threads()                               how many there are
//   once(run)                               run() by one of them
//   reduce(visit, combine)                  visit(thread) of all of them, combined in any order; it
//                                           waits for all, and each gets the result
// Every thread runs the functor. Between two of these calls, what one thread writes the others may
// not read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

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

/// Runs of consecutive items, numbered.
struct Runs {
  const int32_t* before;  // (count + 1,) runs that begin before item i; the last is their number

  TSL_HOST_DEVICE bool begins(int64_t i) const { return before[i + 1] != before[i]; }
  TSL_HOST_DEVICE int32_t run_of(int64_t i) const { return before[i + 1] - 1; }
};

/// Fills before (count + 1,).
template <class Executor, class BeginsRun>
Runs number_runs(Executor& executor, int64_t count, const BeginsRun& begins_run, int32_t* before) {
  executor.for_each(count + 1, MarkRuns<BeginsRun>{begins_run, count, before});
  executor.exclusive_sum(before, count + 1);
  return Runs{before};
}

}  // namespace tsl
