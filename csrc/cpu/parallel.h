// SPDX-License-Identifier: MIT
// Loops over threads. The thread count is an argument of every call (Python passes
// torch.get_num_threads()); nothing is remembered between calls.
//
// The team is OpenMP's, entered through one construct only (`parallel`), so that whichever OpenMP
// runtime torch has loaded serves us too and no second pool of threads is started. Work inside is
// handed out by plain arithmetic or by one atomic counter.
//
// After fork() the threads of the parent do not exist in the child, and an OpenMP runtime that was
// already in use would wait for them for ever; a forked child therefore runs on one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <vector>

namespace tsl::cpu {

/// True in a process that was forked after this library was loaded.
bool is_forked_child();

/// Number of workers for `tasks` independent tasks: at least 1, at most `threads`.
inline int worker_count(int64_t tasks, int threads) {
  if (threads <= 1 || tasks <= 1 || is_forked_child()) return 1;
  return static_cast<int>(std::min<int64_t>(tasks, threads));
}

/// body(task, worker) for every task in [0, tasks), in no order; worker in [0, worker_count). What
/// a body throws (memory can run out) ends the loop and is thrown again here.
template <class Body>
void parallel_tasks(int64_t tasks, int threads, const Body& body) {
  const int workers = worker_count(tasks, threads);
  if (workers == 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  std::atomic<int64_t> next_task{0};
  std::atomic<int> next_worker{0};
  std::atomic<bool> has_failed{false};
  std::exception_ptr failure;
#pragma omp parallel num_threads(workers)
  {
    const int worker = next_worker.fetch_add(1, std::memory_order_relaxed);
    try {
      for (int64_t task; (task = next_task.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        body(task, worker);
      }
    } catch (...) {
      next_task.store(tasks, std::memory_order_relaxed);
      if (!has_failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

/// [0, count) cut into equal consecutive blocks of at least `min_block` items, at most one a
/// thread.
struct Blocks {
  int64_t count;
  int64_t blocks;

  Blocks(int64_t count, int64_t min_block, int threads)
      : count(count), blocks(worker_count(std::max<int64_t>(count / min_block, 1), threads)) {}

  int64_t begin(int64_t block) const { return count * block / blocks; }
  int64_t end(int64_t block) const { return begin(block + 1); }
};

/// body(block) for every block.
template <class Body>
void parallel_blocks(const Blocks& blocks, const Body& body) {
  parallel_tasks(blocks.blocks, static_cast<int>(blocks.blocks),
                 [&](int64_t block, int) { body(block); });
}

/// Items that one thread should get at least, so that entering a team of threads pays off.
constexpr int64_t kMinBlock = 4096;

/// functor(i) for every i in [0, count): the loop of the shared kernels.
template <class Functor>
void for_each(int64_t count, int threads, const Functor& functor) {
  const Blocks blocks(count, kMinBlock, threads);
  parallel_blocks(blocks, [&](int64_t block) {
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) functor(i);
  });
}

constexpr int64_t kNoBadRow = -1;

/// First index of [0, count) for which is_bad(i), or kNoBadRow; scans in parallel, answers as a
/// serial scan would.
template <class IsBad>
int64_t find_first(int64_t count, int threads, const IsBad& is_bad) {
  const Blocks blocks(count, kMinBlock, threads);
  std::vector<int64_t> first(static_cast<size_t>(blocks.blocks), kNoBadRow);
  parallel_blocks(blocks, [&](int64_t block) {
    for (int64_t i = blocks.begin(block); i < blocks.end(block); ++i) {
      if (is_bad(i)) {
        first[static_cast<size_t>(block)] = i;
        return;
      }
    }
  });
  for (const int64_t index : first) {
    if (index != kNoBadRow) return index;
  }
  return kNoBadRow;
}

}  // namespace tsl::cpu
