// SPDX-License-Identifier: MIT
// A block of threads on the CPU (kernels/warp_block.h): phase after phase, warp after warp, lane
// after lane. What a GPU may do late is done as late as it may: a copy that was waited for happens
// at the next barrier, and until then its destination is NaN. What a GPU may do early is checked: a
// copy must not go where another warp has read since the last barrier. Shared memory starts as NaN,
// registers as rubbish, and warps run in the order that a test asks for.
#pragma once

#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/dtype.h"
#include "kernels/fragments.h"

namespace tsl::test {

constexpr int kMaxThreads = 512;
constexpr uint8_t kNaNByte = 0xff;  // four of them are a NaN in every type

class WarpBlock;

inline void check_aligned(const void* address) {
  CHECK_EQ(reinterpret_cast<uintptr_t>(address) % sizeof(Words4), uintptr_t{0});
}

struct Lane {
  WarpBlock* block;
  int index;
  int thread;

  template <class T>
  T& operator()(std::vector<T>& registers) const {
    return registers[static_cast<size_t>(thread)];
  }
  void copy(void* to, const void* from, bool is_there) const;
};

struct Warp {
  WarpBlock* block;
  int index;

  template <class Run>
  void each(const Run& run) const {
    for (int lane = 0; lane < kWarpLanes; ++lane) run(Lane{block, lane, kWarpLanes * index + lane});
  }

  void sync() const {}

  template <class Is>
  uint32_t ballot(const Is& is) const {
    uint32_t bits = 0;
    each([&](const Lane& lane) { bits |= is(lane) ? 1u << lane.index : 0u; });
    return bits;
  }

  template <class To, class From>
  void load_matrices(const To& to, const From& from) const {
    std::array<Words4, kWarpLanes> rows;
    each([&](const Lane& lane) { rows[static_cast<size_t>(lane.index)] = read(from(lane)); });
    each([&](const Lane& lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        to(lane)[matrix] = rows[static_cast<size_t>(8 * matrix + lane.index / 4)].w[lane.index % 4];
      }
    });
  }

  template <class To, class From>
  void load_transposed(const To& to, const From& from) const {
    std::array<Words4, kWarpLanes> rows;
    each([&](const Lane& lane) { rows[static_cast<size_t>(lane.index)] = read(from(lane)); });
    const auto half = [&](int row, int column) {
      return rows[static_cast<size_t>(row)].w[column / 2] >> (16 * (column % 2)) & 0xffffu;
    };
    each([&](const Lane& lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const int row = 8 * matrix + 2 * (lane.index % 4);
        to(lane)[matrix] = half(row, lane.index / 4) | half(row + 1, lane.index / 4) << 16;
      }
    });
  }

  template <class S, class D, class A, class B>
  void multiply(const D& d, const A& a, const B& b) const {
    constexpr int kNumbers = Operand<S>::kNumbers;
    constexpr int kDepth = Operand<S>::kFragment;
    float weights[kOutFragment][kDepth];
    float rows[kDepth][kFragmentRows];
    each([&](const Lane& lane) {
      for (int n = 0; n < kNumbers; ++n) {
        for (int w = 0; w < 4; ++w) {
          const Place at = place_in_a<S>(lane.index, w);
          weights[at.row][at.column + n] = number<S>(a(lane)[w], n);
        }
        for (int w = 0; w < 2; ++w) {
          const Place at = place_in_b<S>(lane.index, w);
          const uint32_t word = b(lane)[w];
          if constexpr (std::is_same_v<S, float>) {
            rows[at.row][at.column] = rounded_to_tf32(float_from_bits(word));
          } else {
            rows[at.row + n][at.column] = number<S>(word, n);
          }
        }
      }
    });
    each([&](const Lane& lane) {
      for (int i = 0; i < 4; ++i) {
        const Place at = place_in_d(lane.index, i);
        for (int k = 0; k < kDepth; ++k) d(lane)[i] += weights[at.row][k] * rows[k][at.column];
      }
    });
  }

 private:
  Words4 read(const Words4* from) const;

  /// Number n of a word, as the tensor cores read it.
  template <class S>
  static float number(uint32_t word, int n) {
    if constexpr (std::is_same_v<S, float>) {
      return float_from_bits(word & ~0x1fffu);
    } else {
      return to_float(S{static_cast<uint16_t>(word >> (16 * n))});
    }
  }
};

class WarpBlock {
 public:
  template <class T>
  struct Registers : std::vector<T> {
    Registers() : std::vector<T>(kMaxThreads) {
      std::memset(static_cast<void*>(this->data()), kNaNByte, kMaxThreads * sizeof(T));
    }
  };

  /// With `backwards` the last warp of a phase comes first.
  WarpBlock(int warps, bool backwards) : warps_(warps), backwards_(backwards) {}

  template <class T>
  T& shared() {
    memory_.assign(sizeof(T) / sizeof(Line) + 1, Line{});
    std::memset(static_cast<void*>(memory_.data()), kNaNByte, memory_.size() * sizeof(Line));
    return *reinterpret_cast<T*>(memory_.data());
  }

  template <class Run>
  void warps(const Run& run) {
    for (int i = 0; i < warps_; ++i) run(Warp{this, backwards_ ? warps_ - 1 - i : i});
  }

  void sync() {
    for (const auto& copy : landed_) copy();
    landed_.clear();
    readers_.clear();
  }

  Words4 read(const Words4* from, int warp) {
    check_aligned(from);
    readers_[from] |= 1u << warp;
    return *from;
  }

  void copy(void* to, const void* from, bool is_there, int warp) {
    check_aligned(to);
    check_aligned(from);
    CHECK_EQ(readers_[to] & ~(1u << warp), 0u);
    std::memset(to, kNaNByte, sizeof(Words4));
    open_.push_back([=] {
      if (is_there) {
        std::memcpy(to, from, sizeof(Words4));
      } else {
        std::memset(to, 0, sizeof(Words4));
      }
    });
  }

  void commit() {
    groups_.push_back(open_);
    open_.clear();
  }

  template <int pending>
  void wait() {
    for (; groups_.size() > pending; groups_.pop_front()) {
      landed_.insert(landed_.end(), groups_.front().begin(), groups_.front().end());
    }
  }

 private:
  using Copy = std::function<void()>;
  struct alignas(128) Line {
    char bytes[128];
  };

  int warps_;
  bool backwards_;
  std::vector<Line> memory_;
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;     // closed and not waited for
  std::vector<Copy> landed_;                 // waited for, and to be seen after the next barrier
  std::map<const void*, uint32_t> readers_;  // since the last barrier: the warps, as bits
};

inline void Lane::copy(void* to, const void* from, bool is_there) const {
  block->copy(to, from, is_there, thread / kWarpLanes);
}

inline Words4 Warp::read(const Words4* from) const { return block->read(from, index); }

}  // namespace tsl::test
