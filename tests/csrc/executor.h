// SPDX-License-Identifier: MIT
// Runs the passes that a GPU runs, on the CPU: std::stable_sort and std::exclusive_scan in place of
// CUB. Memory is handed out full of rubbish, sorts leave their result in the spare arrays, and
// waiting for the device is counted.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/parallel.h"
#include "kernels/passes.h"

namespace tsl::test {

/// A block of threads that take turns, the last one first.
class Block {
 public:
  explicit Block(int threads) : threads_(threads) {}

  int threads() const { return threads_; }

  template <class Run>
  void once(const Run& run) const {
    run();
  }

  template <class Visit, class Combine>
  auto reduce(const Visit& visit, const Combine& combine) const {
    auto all = visit(threads_ - 1);
    for (int thread = threads_ - 2; thread >= 0; --thread) all = combine(all, visit(thread));
    return all;
  }

 private:
  int threads_;
};

class Executor {
 public:
  explicit Executor(int threads, int block_threads = 32)
      : threads_(threads), block_threads_(block_threads) {}

  void* take(int64_t bytes) {
    const size_t words = static_cast<size_t>(bytes) / sizeof(uint64_t) + 1;
    memory_.push_back(std::make_unique<uint64_t[]>(words));
    std::fill_n(memory_.back().get(), words, kRubbish);
    return memory_.back().get();
  }

  template <class Functor>
  void for_each(int64_t count, const Functor& functor) {
    cpu::for_each(count, threads_, functor);
  }

  template <class Functor>
  void for_each_block(int64_t count, const Functor& functor) {
    cpu::for_each(count, threads_, [&](int64_t i) { functor(Block(block_threads_), i); });
  }

  template <class T>
  void exclusive_sum(T* values, int64_t count) {
    std::exclusive_scan(values, values + count, values, T{0});
  }

  template <class Key>
  const Key* sort(Key* keys, Key* spare, int64_t count) {
    std::copy_n(keys, count, spare);
    std::sort(spare, spare + count);
    spoil(keys, count);
    return spare;
  }

  template <class Key, class Value>
  SortedPairs<Key, Value> sort_pairs(Key* keys, Key* spare_keys, Value* values, Value* spare_values,
                                     int64_t count, int bits) {
    const Key mask = bits == 8 * sizeof(Key) ? ~Key{0} : (Key{1} << bits) - 1;
    std::vector<std::pair<Key, Value>> pairs;
    for (int64_t i = 0; i < count; ++i) pairs.emplace_back(keys[i], values[i]);
    std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
      return (a.first & mask) < (b.first & mask);
    });
    spoil(keys, count);
    spoil(values, count);
    for (int64_t i = 0; i < count; ++i) {
      std::tie(spare_keys[i], spare_values[i]) = pairs[static_cast<size_t>(i)];
    }
    return {spare_keys, spare_values};
  }

  template <size_t n, class T>
  std::array<T, n> read(const T* values) {
    ++waits_;
    std::array<T, n> result;
    std::copy_n(values, n, result.begin());
    return result;
  }

  /// How often the host has waited for the device.
  int waits() const { return waits_; }

  /// From now on results have this many rows, and `overflow` is raised.
  void set_capacity(int64_t capacity, int32_t* overflow) {
    capacity_ = capacity;
    overflow_ = overflow;
  }
  bool has_capacity() const { return capacity_ >= 0; }
  int64_t capacity() const { return capacity_; }
  int32_t* overflow() const { return overflow_; }

 private:
  static constexpr uint64_t kRubbish = 0xa5a5a5a5a5a5a5a5u;

  template <class T>
  static void spoil(T* values, int64_t count) {
    std::fill_n(values, count, static_cast<T>(kRubbish));
  }

  int threads_;
  int block_threads_;
  int waits_ = 0;
  int64_t capacity_ = -1;
  int32_t* overflow_ = nullptr;
  std::vector<std::unique_ptr<uint64_t[]>> memory_;
};

}  // namespace tsl::test
