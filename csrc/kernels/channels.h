// SPDX-License-Identifier: MIT
// Matrices of features in the hands of a GPU: (rows, channels), an item being kWidth neighbouring
// channels of one row, so that neighbouring items read neighbouring memory.
//
// kWidth is 1, or what 16 bytes hold. A GPU reads 16 bytes in one instruction, and the address, the
// index and the division behind it are paid once for all of them; with 2 bytes an item these would
// take longer than the memory. Results do not depend on the width.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "core/macros.h"

namespace tsl {

constexpr int kPackBytes = 16;

template <class S>
constexpr int kPackWidth = kPackBytes / static_cast<int>(sizeof(S));

/// Neighbouring numbers, read and written together.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth < kPackBytes ? sizeof(T) * kWidth : kPackBytes) Pack {
  T values[kWidth];
};

template <int kWidth, class T>
TSL_HOST_DEVICE Pack<T, kWidth> read_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

template <int kWidth, class T>
TSL_HOST_DEVICE void write_pack(const Pack<T, kWidth>& pack, T* to) {
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

/// run(width) with the width, as a type, for these matrices of S (null where there is none): 1 if
/// some row does not begin at a multiple of 16 bytes.
template <class S, class Run>
void with_width(int64_t channels, std::initializer_list<const void*> matrices, const Run& run) {
  bool is_packed = channels % kPackWidth<S> == 0;
  for (const void* const matrix : matrices) {
    is_packed = is_packed && reinterpret_cast<uintptr_t>(matrix) % kPackBytes == 0;
  }
  if (is_packed) {
    run(std::integral_constant<int, kPackWidth<S>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

/// Where an item begins in a matrix.
struct Element {
  int64_t row;
  int64_t channel;
};

template <int kWidth>
TSL_HOST_DEVICE Element element_of(int64_t item, int64_t channels) {
  const int64_t packs = channels / kWidth;
  // A GPU divides in software, 64 bits at several times the cost of 32; nearly always 32 will do.
  const bool is_small = (item | packs) >> 32 == 0;
  const int64_t row =
      is_small ? static_cast<uint32_t>(item) / static_cast<uint32_t>(packs) : item / packs;
  return {row, (item - row * packs) * kWidth};
}

}  // namespace tsl
