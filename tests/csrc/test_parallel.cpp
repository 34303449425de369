// SPDX-License-Identifier: MIT
#include "cpu/parallel.h"

#include <new>
#include <string>

#include "check.h"

namespace {

using namespace tsl;

TEST(every_task_runs_once) {
  for (const int threads : {1, 2, 5}) {
    std::vector<std::atomic<int>> runs(1000);
    cpu::parallel_tasks(1000, threads,
                        [&](int64_t task, int) { ++runs[static_cast<size_t>(task)]; });
    for (const std::atomic<int>& count : runs) CHECK_EQ(count.load(), 1);
  }
}

/// Memory can run out inside a team of threads; the caller must be able to catch that.
TEST(what_a_body_throws_reaches_the_caller) {
  for (const int threads : {1, 2, 5}) {
    for (const int64_t bad_task : {0, 7, 99}) {
      std::string caught;
      try {
        cpu::parallel_tasks(100, threads, [&](int64_t task, int) {
          if (task >= bad_task) throw std::bad_alloc();
        });
      } catch (const std::bad_alloc&) {
        caught = "bad_alloc";
      }
      CHECK_EQ(caught, std::string("bad_alloc"));
    }
  }
}

TEST(find_first_answers_as_a_serial_scan) {
  for (const int threads : {1, 2, 5}) {
    const auto first = [&](int64_t count, int64_t bad) {
      return cpu::find_first(count, threads, [&](int64_t i) { return i >= bad; });
    };
    CHECK_EQ(first(0, 0), cpu::kNoBadRow);
    CHECK_EQ(first(50'000, 50'000), cpu::kNoBadRow);
    CHECK_EQ(first(50'000, 31'234), int64_t{31'234});
    CHECK_EQ(first(50'000, 0), int64_t{0});
  }
}

}  // namespace

int main() { return check::run_tests(); }
