// SPDX-License-Identifier: MIT
// Reduction of consecutive terms, segment after segment, channel by channel.
//
//   the full blocks of 64 terms of each segment | the full groups of 64 of its blocks |
//   each segment: its groups, the blocks that are left, the terms that are left
//
// So a segment of two points is one walk over two rows, and a segment that is a whole cloud is
// shared by many. Blocks are counted from where their segment begins: what comes out depends on the
// segment alone, not on its neighbours or on the device. Terms are added in order; a segment of
// less than 64 of them is one plain sum.
//
// A block is kept at place begin / 64. Two blocks begin at least 64 terms apart, so no two share a
// place, and the term 64 * place + 63 lies in the block, so a place finds its segment by a binary
// search. Groups are to blocks what blocks are to terms.
// Memory: a sum for each 64 terms and channel.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/refuse.h"
#include "kernels/channels.h"
#include "kernels/passes.h"

namespace tsl {

constexpr int64_t kBlockTerms = 64;

struct Range {
  int64_t begin;
  int64_t end;

  TSL_HOST_DEVICE int64_t size() const { return end - begin; }
  TSL_HOST_DEVICE bool contains(int64_t i) const { return begin <= i && i < end; }
  /// The places of the full blocks.
  TSL_HOST_DEVICE Range blocks() const {
    const int64_t first = begin / kBlockTerms;
    return {first, first + size() / kBlockTerms};
  }
  /// What the block at a place reads.
  TSL_HOST_DEVICE Range block(int64_t place) const {
    const int64_t first = begin + (place - blocks().begin) * kBlockTerms;
    return {first, first + kBlockTerms};
  }
  /// What is behind the last full block.
  TSL_HOST_DEVICE Range rest() const { return {begin + blocks().size() * kBlockTerms, end}; }
};

/// Segment s has the terms ptr[s] to ptr[s + 1]. From ptr[count] on, terms belong to none.
struct Segments {
  const int64_t* ptr;  // (count + 1,)
  int64_t count;
  int64_t terms;

  TSL_HOST_DEVICE Range range(int64_t segment) const { return {ptr[segment], ptr[segment + 1]}; }
  /// The segment of a term, or `count`.
  TSL_HOST_DEVICE int64_t of(int64_t term) const {
    int64_t low = 0;
    int64_t high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ptr[middle + 1] <= term) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

/// All terms in one segment.
struct OneSegment {
  static constexpr int64_t count = 1;
  int64_t terms;

  TSL_HOST_DEVICE Range range(int64_t) const { return {0, terms}; }
  TSL_HOST_DEVICE int64_t of(int64_t) const { return 0; }
};

/// Refuses a ptr that does not cut terms into segments; an item is an entry.
struct CheckPtr {
  Segments segments;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t begin = segments.ptr[i];
    const bool is_last = i == segments.count;
    const bool fits = (i > 0 || begin == 0) && begin >= 0 && begin <= segments.terms &&
                      (is_last || begin <= segments.ptr[i + 1]);
    if (!fits) {
      refuse_row("segments: ptr must ascend from 0 to no more than the number of terms", i,
                 "Give where each segment begins, and the end.");
    }
  }
};

/// A reduction that is being run. Cut is Segments or OneSegment. Reduction has a type Sum, with
/// merge(later sum), and
///   add(term, channel, sums)              to the sums of kWidth channels
///   write(segment, channel, terms, sums)
template <int kWidth, class Cut, class Reduction>
struct Reducing {
  using Sum = typename Reduction::Sum;

  Cut segments;
  Reduction reduction;
  int64_t channels;
  Sum* blocks;  // (segments.terms / kBlockTerms, channels)
  Sum* groups;  // (segments.terms / kBlockTerms / kBlockTerms, channels)

  TSL_HOST_DEVICE void add(Range terms, int64_t channel, Sum* sums) const {
    for (int64_t term = terms.begin; term < terms.end; ++term) reduction.add(term, channel, sums);
  }
  TSL_HOST_DEVICE void merge(const Sum* kept, Range places, int64_t channel, Sum* sums) const {
    for (int64_t place = places.begin; place < places.end; ++place) {
      const Sum* const from = kept + place * channels + channel;
      for (int k = 0; k < kWidth; ++k) sums[k].merge(from[k]);
    }
  }
  TSL_HOST_DEVICE void keep(const Sum* sums, const Element& at, Sum* kept) const {
    for (int k = 0; k < kWidth; ++k) kept[at.row * channels + at.channel + k] = sums[k];
  }
};

template <int kWidth, class Cut, class Reduction>
struct ReduceBlocks {
  Reducing<kWidth, Cut, Reduction> job;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    const Element at = element_of<kWidth>(item, job.channels);
    const int64_t segment = job.segments.of((at.row + 1) * kBlockTerms - 1);
    if (segment == job.segments.count) return;
    const Range terms = job.segments.range(segment);
    if (!terms.blocks().contains(at.row)) return;
    typename Reduction::Sum sums[kWidth];
    job.add(terms.block(at.row), at.channel, sums);
    job.keep(sums, at, job.blocks);
  }
};

template <int kWidth, class Cut, class Reduction>
struct ReduceGroups {
  Reducing<kWidth, Cut, Reduction> job;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    const Element at = element_of<kWidth>(item, job.channels);
    const int64_t segment = job.segments.of((at.row + 1) * kBlockTerms * kBlockTerms - 1);
    if (segment == job.segments.count) return;
    const Range blocks = job.segments.range(segment).blocks();
    if (!blocks.blocks().contains(at.row)) return;
    typename Reduction::Sum sums[kWidth];
    job.merge(job.blocks, blocks.block(at.row), at.channel, sums);
    job.keep(sums, at, job.groups);
  }
};

template <int kWidth, class Cut, class Reduction>
struct ReduceSegments {
  Reducing<kWidth, Cut, Reduction> job;

  TSL_HOST_DEVICE void operator()(int64_t item) const {
    const Element at = element_of<kWidth>(item, job.channels);
    const Range terms = job.segments.range(at.row);
    const Range blocks = terms.blocks();
    typename Reduction::Sum sums[kWidth];
    job.merge(job.groups, blocks.blocks(), at.channel, sums);
    job.merge(job.blocks, blocks.rest(), at.channel, sums);
    job.add(terms.rest(), at.channel, sums);
    job.reduction.write(at.row, at.channel, terms.size(), sums);
  }
};

/// The segments must lie in their terms.
template <int kWidth, class Executor, class Cut, class Reduction>
void reduce_segments(Executor& executor, const Cut& segments, const Reduction& reduction,
                     int64_t channels) {
  using Sum = typename Reduction::Sum;
  const int64_t packs = channels / kWidth;
  const int64_t blocks = segments.terms / kBlockTerms;
  const int64_t groups = blocks / kBlockTerms;
  const auto [block_sums, group_sums] =
      scratch<Sum, Sum>(executor, {blocks * channels, groups * channels});
  const Reducing<kWidth, Cut, Reduction> job{segments, reduction, channels, block_sums, group_sums};
  executor.for_each(blocks * packs, ReduceBlocks<kWidth, Cut, Reduction>{job});
  executor.for_each(groups * packs, ReduceGroups<kWidth, Cut, Reduction>{job});
  executor.for_each(segments.count * packs, ReduceSegments<kWidth, Cut, Reduction>{job});
}

}  // namespace tsl
