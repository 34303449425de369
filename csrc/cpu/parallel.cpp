// SPDX-License-Identifier: MIT
#include "cpu/parallel.h"

#include <pthread.h>

namespace tsl::cpu {
namespace {

std::atomic<bool> forked{false};

[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

}  // namespace

bool is_forked_child() { return forked.load(std::memory_order_relaxed); }

}  // namespace tsl::cpu
