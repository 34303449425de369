// SPDX-License-Identifier: MIT
#include "cpu/reduce.h"

#include <algorithm>
#include <vector>

#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "kernels/largest.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kRowsPerTask = 256;
constexpr int64_t kRowsPerSum = 1024;     // of a whole column: few enough sums to add up in the end
constexpr int64_t kPrefetchTerms = 16;    // rows of a segment lie anywhere: ask for them ahead
constexpr int64_t kSumChannels = 64;      // summed at once
constexpr int64_t kFewSegments = 64;      // so few that threads would wait for each other
constexpr int64_t kChannelsPerTask = 16;  // then; a line of the cache of float

/// body(row) for every row, in blocks handed out to threads.
template <class Body>
void for_each_row(int64_t rows, int threads, const Body& body) {
  parallel_tasks((rows + kRowsPerTask - 1) / kRowsPerTask, threads, [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) body(row);
  });
}

/// body(segment, first, last) for every segment and all of its channels [first, last), in pieces
/// that are handed out to threads. Few segments are long ones: their channels are shared out too.
template <class Body>
void for_each_segment(const int64_t* ptr, int64_t segments, int64_t channels, int threads,
                      const Body& body) {
  const int64_t terms = std::max<int64_t>(ptr[segments] - ptr[0], 1);
  const int64_t rows = std::clamp<int64_t>(kRowsPerTask * segments / terms, 1, kRowsPerTask);
  const int64_t width = segments < kFewSegments ? kChannelsPerTask : std::max<int64_t>(channels, 1);
  const int64_t groups = (segments + rows - 1) / rows;
  const int64_t parts = (channels + width - 1) / width;
  parallel_tasks(groups * parts, threads, [&](int64_t task, int) {
    const int64_t first = task % parts * width;
    const int64_t last = std::min(channels, first + width);
    const int64_t end = std::min(segments, (task / parts + 1) * rows);
    for (int64_t segment = task / parts * rows; segment < end; ++segment) {
      body(segment, first, last);
    }
  });
}

/// to[c] = sum over the terms [begin, end) of factor(i) * row(i)[c], for c in [first, last),
/// divided by `divisor`. Summed in double: a segment can be a whole cloud.
template <class T, class Row, class Factor>
void sum_terms(int64_t begin, int64_t end, int64_t last_term, int64_t first, int64_t last,
               double divisor, const Row& row, const Factor& factor, T* to) {
  for (; first < last; first += kSumChannels) {
    const int64_t count = std::min(kSumChannels, last - first);
    double sum[kSumChannels];
    std::fill(sum, sum + count, 0.0);
    for (int64_t i = begin; i < end; ++i) {
      const T* const x = row(i) + first;
      __builtin_prefetch(row(std::min(i + kPrefetchTerms, last_term)) + first);
      const double f = factor(i);
      for (int64_t c = 0; c < count; ++c) sum[c] += f * static_cast<double>(x[c]);
    }
    for (int64_t c = 0; c < count; ++c) to[first + c] = static_cast<T>(sum[c] / divisor);
  }
}

/// Adds up row(r, sum, product) over all rows r: block by block, then the blocks in order.
/// `product` may be null.
template <class Row>
void sum_rows(int64_t rows, int64_t channels, double* sum, double* product, int threads,
              const Row& add_row) {
  constexpr int64_t kLine = 2 * kCacheLine / sizeof(double);  // processors fetch pairs of lines
  const int64_t blocks = (rows + kRowsPerSum - 1) / kRowsPerSum;
  const int64_t stride = ((product ? 2 : 1) * channels + kLine - 1) / kLine * kLine;
  const Scratch<double> partial(blocks * stride);
  parallel_tasks(blocks, threads, [&](int64_t block, int) {
    double* const s = partial.data() + block * stride;
    std::fill(s, s + stride, 0.0);
    const int64_t end = std::min(rows, (block + 1) * kRowsPerSum);
    for (int64_t row = block * kRowsPerSum; row < end; ++row) add_row(row, s, s + channels);
  });
  std::fill(sum, sum + channels, 0.0);
  if (product) std::fill(product, product + channels, 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    const double* const s = partial.data() + block * stride;
    for (int64_t c = 0; c < channels; ++c) sum[c] += s[c];
    for (int64_t c = 0; product && c < channels; ++c) product[c] += s[channels + c];
  }
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
  const int64_t last_term = ptr[segments] - 1;
  for_each_segment(
      ptr, segments, channels, threads, [&](int64_t segment, int64_t first, int64_t last) {
        T* const y = out + segment * channels;
        const int64_t begin = ptr[segment], end = ptr[segment + 1];
        if (reduce == Reduce::kMax) {
          std::fill(y + first, y + last, T(0));
          int64_t* const where = argmax + segment * channels;
          std::fill(where + first, where + last, int64_t{-1});
          for (int64_t i = begin; i < end; ++i) {
            const T* const x = feats + order[i] * channels;
            for (int64_t c = first; c < last; ++c) {
              if (where[c] < 0 || beats(x[c], y[c])) {
                y[c] = x[c];
                where[c] = order[i];
              }
            }
          }
          return;
        }
        const bool is_mean = reduce == Reduce::kMean && end - begin > 1;
        sum_terms(
            begin, end, last_term, first, last, is_mean ? static_cast<double>(end - begin) : 1.0,
            [&](int64_t i) { return feats + order[i] * channels; }, [](int64_t) { return 1.0; }, y);
      });
}

template <class T>
void interpolate(const T* feats, const int64_t* index, const T* weight, int64_t count,
                 int64_t terms, int64_t channels, T* out, int threads) {
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
                          int64_t terms, int64_t rows, int64_t channels, T* grad_feats,
                          int threads) {
  // A counting sort of the terms by row keeps them in order and gives each row to one thread.
  std::vector<int64_t> ptr(static_cast<size_t>(rows) + 2, 0);
  for (int64_t j = 0; j < count * terms; ++j) {
    if (index[j] >= 0) ++ptr[static_cast<size_t>(index[j]) + 2];
  }
  for (size_t row = 2; row < ptr.size(); ++row) ptr[row] += ptr[row - 1];
  const auto known = static_cast<size_t>(ptr.back());
  std::vector<int64_t> source(known);
  std::vector<T> factor(known);
  for (int64_t i = 0, j = 0; i < count; ++i) {
    for (; j < (i + 1) * terms; ++j) {
      if (index[j] < 0) continue;
      const auto place = static_cast<size_t>(ptr[static_cast<size_t>(index[j]) + 1]++);
      source[place] = i;
      factor[place] = weight[j];
    }
  }
  const int64_t last_term = ptr[static_cast<size_t>(rows)] - 1;
  for_each_segment(
      ptr.data(), rows, channels, threads, [&](int64_t row, int64_t first, int64_t last) {
        sum_terms(
            ptr[static_cast<size_t>(row)], ptr[static_cast<size_t>(row) + 1], last_term, first,
            last, 1.0,
            [&](int64_t i) { return grad_out + source[static_cast<size_t>(i)] * channels; },
            [&](int64_t i) { return static_cast<double>(factor[static_cast<size_t>(i)]); },
            grad_feats + row * channels);
      });
}

template <class S>
void column_sums(const S* a, const S* b, int64_t rows, int64_t channels, double* sum,
                 double* product, int threads) {
  sum_rows(rows, channels, sum, product, threads, [&](int64_t row, double* s, double* p) {
    const S* const x = a + row * channels;
    if (!b) {
      for (int64_t c = 0; c < channels; ++c) s[c] += widened<double>(x[c]);
      return;
    }
    const S* const y = b + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double value = widened<double>(x[c]);
      s[c] += value;
      p[c] += value * widened<double>(y[c]);
    }
  });
}

template <class S>
void column_moments(const S* feats, int64_t rows, int64_t channels, double* mean, double* variance,
                    int threads) {
  // Distances to the first row are summed, so that a large mean costs the variance no digits.
  std::vector<double> origin(static_cast<size_t>(channels), 0.0);
  if (rows > 0) std::transform(feats, feats + channels, origin.begin(), widened<double, S>);
  const double* const o = origin.data();
  sum_rows(rows, channels, mean, variance, threads, [&](int64_t row, double* s, double* p) {
    const S* const x = feats + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double distance = widened<double>(x[c]) - o[c];
      s[c] += distance;
      p[c] += distance * distance;
    }
  });
  const double count = static_cast<double>(std::max<int64_t>(rows, 1));
  for (int64_t c = 0; c < channels; ++c) {
    const double shift = mean[c] / count;
    const double spread = variance[c] / count - shift * shift;
    mean[c] = o[c] + shift;
    variance[c] = spread < 0 ? 0.0 : spread;
  }
}

template <class S>
void scale_shift(const ScaleShift<S>& task, int threads) {
  using A = SumType<S>;
  const int64_t channels = task.channels;
  const std::vector<A> zeros(task.shift ? 0 : static_cast<size_t>(channels), A(0));
  const A* const s = task.a.scale;
  const A* const t = task.b.scale;
  const A* const u = task.shift ? task.shift : zeros.data();
  advise_huge_pages(task.out, static_cast<size_t>(task.rows * channels) * sizeof(S));
  for_each_row(task.rows, threads, [&](int64_t row) {
    const S* const x = task.a.x + row * channels;
    S* const to = task.out + row * channels;
    if (!task.b.x) {
      for (int64_t c = 0; c < channels; ++c) to[c] = narrowed<S>(widened<A>(x[c]) * s[c] + u[c]);
      return;
    }
    const S* const y = task.b.x + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = narrowed<S>(widened<A>(x[c]) * s[c] + widened<A>(y[c]) * t[c] + u[c]);
    }
  });
}

#define TSL_INSTANTIATE(T)                                                                        \
  template void max_pool<T>(const PairTiles&, const T*, int64_t, T*, int32_t*, int);              \
  template void max_pool_backward<T>(const PairTiles&, const T*, const int32_t*, int64_t, T*,     \
                                     int);                                                        \
  template void segment_reduce<T>(const T*, const int64_t*, const int64_t*, int64_t, int64_t,     \
                                  Reduce, T*, int64_t*, int);                                     \
  template void interpolate<T>(const T*, const int64_t*, const T*, int64_t, int64_t, int64_t, T*, \
                               int);                                                              \
  template void interpolate_backward<T>(const T*, const int64_t*, const T*, int64_t, int64_t,     \
                                        int64_t, int64_t, T*, int);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
#undef TSL_INSTANTIATE

#define TSL_INSTANTIATE(S)                                                                   \
  template void column_sums<S>(const S*, const S*, int64_t, int64_t, double*, double*, int); \
  template void column_moments<S>(const S*, int64_t, int64_t, double*, double*, int);        \
  template void scale_shift<S>(const ScaleShift<S>&, int);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
TSL_INSTANTIATE(BFloat16)
#undef TSL_INSTANTIATE

}  // namespace tsl::cpu
