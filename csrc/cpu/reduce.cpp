// SPDX-License-Identifier: MIT
#include "cpu/reduce.h"

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kRowsPerTask = 256;
constexpr int64_t kSumChannels = 64;  // summed at once in double: a segment can be a whole cloud

/// body(row) for every row, in blocks handed out to threads.
template <class Body>
void for_each_row(int64_t rows, int threads, const Body& body) {
  parallel_tasks((rows + kRowsPerTask - 1) / kRowsPerTask, threads, [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) body(row);
  });
}

/// torch's order: NaN is larger than everything.
template <class T>
bool beats(T candidate, T best) {
  return candidate > best || (candidate != candidate && best == best);
}

}  // namespace

template <class T>
void max_pool(const PairTiles& pairs, const T* feats, int64_t channels, T* out, int32_t* argmax,
              int threads) {
  parallel_tasks(pairs.num_tiles(), threads, [&](int64_t tile, int) {
    const int64_t begin = pairs.first_row(tile) * channels;
    const int64_t end = pairs.last_row(tile) * channels;
    std::fill(out + begin, out + end, T(0));
    std::fill(argmax + begin, argmax + end, int32_t{-1});
    for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
      for (int64_t p = pairs.first_pair(tile, tap); p < pairs.first_pair(tile + 1, tap); ++p) {
        const int32_t input = pairs.in_index[p];
        const T* const x = feats + input * channels;
        T* const y = out + pairs.out_index[p] * channels;
        int32_t* const where = argmax + pairs.out_index[p] * channels;
        for (int64_t c = 0; c < channels; ++c) {
          if (where[c] < 0 || beats(x[c], y[c])) {
            y[c] = x[c];
            where[c] = input;
          }
        }
      }
    }
  });
}

template <class T>
void max_pool_backward(const PairTiles& pairs, const T* grad_out, const int32_t* argmax,
                       int64_t channels, T* grad_in, int threads) {
  parallel_tasks(pairs.num_tiles(), threads, [&](int64_t tile, int) {
    std::fill(grad_in + pairs.first_row(tile) * channels, grad_in + pairs.last_row(tile) * channels,
              T(0));
    for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
      for (int64_t p = pairs.first_pair(tile, tap); p < pairs.first_pair(tile + 1, tap); ++p) {
        const int32_t input = pairs.out_index[p];
        const T* const g = grad_out + pairs.in_index[p] * channels;
        const int32_t* const where = argmax + pairs.in_index[p] * channels;
        T* const to = grad_in + input * channels;
        for (int64_t c = 0; c < channels; ++c) to[c] += where[c] == input ? g[c] : T(0);
      }
    }
  });
}

template <class T>
void segment_reduce(const T* feats, const int64_t* order, const int64_t* ptr, int64_t segments,
                    int64_t channels, Reduce reduce, T* out, int64_t* argmax, int threads) {
  for_each_row(segments, threads, [&](int64_t segment) {
    T* const y = out + segment * channels;
    if (reduce == Reduce::kMax) {
      std::fill(y, y + channels, T(0));
      int64_t* const where = argmax + segment * channels;
      std::fill(where, where + channels, int64_t{-1});
      for (int64_t i = ptr[segment]; i < ptr[segment + 1]; ++i) {
        const T* const x = feats + order[i] * channels;
        for (int64_t c = 0; c < channels; ++c) {
          if (where[c] < 0 || beats(x[c], y[c])) {
            y[c] = x[c];
            where[c] = order[i];
          }
        }
      }
      return;
    }
    const int64_t rows = ptr[segment + 1] - ptr[segment];
    const double scale = reduce == Reduce::kMean && rows > 1 ? static_cast<double>(rows) : 1.0;
    for (int64_t first = 0; first < channels; first += kSumChannels) {
      const int64_t count = std::min(kSumChannels, channels - first);
      double sum[kSumChannels] = {};
      for (int64_t i = ptr[segment]; i < ptr[segment + 1]; ++i) {
        const T* const x = feats + order[i] * channels + first;
        for (int64_t c = 0; c < count; ++c) sum[c] += static_cast<double>(x[c]);
      }
      for (int64_t c = 0; c < count; ++c) y[first + c] = static_cast<T>(sum[c] / scale);
    }
  });
}

template <class T>
void interpolate(const T* feats, const int64_t* index, const T* weight, int64_t count, int64_t terms,
                 int64_t channels, T* out, int threads) {
  for_each_row(count, threads, [&](int64_t row) {
    T* const y = out + row * channels;
    std::fill(y, y + channels, T(0));
    for (int64_t j = row * terms; j < (row + 1) * terms; ++j) {
      if (index[j] < 0) continue;
      const T* const x = feats + index[j] * channels;
      for (int64_t c = 0; c < channels; ++c) y[c] += weight[j] * x[c];
    }
  });
}

template <class T>
void interpolate_backward(const T* grad_out, const int64_t* index, const T* weight, int64_t count,
                          int64_t terms, int64_t rows, int64_t channels, T* grad_feats, int threads) {
  // A counting sort of the terms by row keeps them in order and gives each row to one thread.
  std::vector<int64_t> ptr(static_cast<size_t>(rows) + 2, 0);
  for (int64_t j = 0; j < count * terms; ++j) {
    if (index[j] >= 0) ++ptr[static_cast<size_t>(index[j]) + 2];
  }
  for (size_t row = 2; row < ptr.size(); ++row) ptr[row] += ptr[row - 1];
  std::vector<int64_t> term(static_cast<size_t>(ptr.back()));
  for (int64_t j = 0; j < count * terms; ++j) {
    if (index[j] >= 0) {
      term[static_cast<size_t>(ptr[static_cast<size_t>(index[j]) + 1]++)] = j;
    }
  }
  for_each_row(rows, threads, [&](int64_t row) {
    T* const to = grad_feats + row * channels;
    std::fill(to, to + channels, T(0));
    for (int64_t i = ptr[static_cast<size_t>(row)]; i < ptr[static_cast<size_t>(row) + 1]; ++i) {
      const int64_t j = term[static_cast<size_t>(i)];
      const T* const g = grad_out + j / terms * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += weight[j] * g[c];
    }
  });
}

#define TSL_INSTANTIATE(T)                                                                         \
  template void max_pool<T>(const PairTiles&, const T*, int64_t, T*, int32_t*, int);               \
  template void max_pool_backward<T>(const PairTiles&, const T*, const int32_t*, int64_t, T*,      \
                                     int);                                                         \
  template void segment_reduce<T>(const T*, const int64_t*, const int64_t*, int64_t, int64_t,      \
                                  Reduce, T*, int64_t*, int);                                      \
  template void interpolate<T>(const T*, const int64_t*, const T*, int64_t, int64_t, int64_t, T*,  \
                               int);                                                               \
  template void interpolate_backward<T>(const T*, const int64_t*, const T*, int64_t, int64_t,      \
                                        int64_t, int64_t, T*, int);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
#undef TSL_INSTANTIATE

}  // namespace tsl::cpu
