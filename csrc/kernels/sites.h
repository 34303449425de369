// SPDX-License-Identifier: MIT
// Which sites a convolution writes: unique and in Morton order.
//
//   every site proposes what its windows reach, as keys | sort | number the runs of equal keys |
//   write
//
// Each site makes the same number of proposals, so that nothing has to be counted first; what does
// not exist is the key kNoSite. That is also the key of the last coordinate of all, so a flag tells
// whether anybody proposed that one. Dead rows propose nothing. Waits for the device once, for the
// number of sites; under a capacity nothing may be met that a flag tells of.
// Memory: 20 bytes a proposal and what sorting and summing need.
#pragma once

#include <cstdint>
#include <limits>
#include <numeric>

#include "core/atomic.h"
#include "core/check.h"
#include "core/conv_geometry.h"
#include "core/coord.h"
#include "core/macros.h"
#include "kernels/passes.h"

namespace tsl {

enum class SiteKind {
  kFull,  // every coarse site whose window holds an input
  kCell,  // one coarse site per occupied cell floor(fine / stride)
  kFine,  // every fine site that the kernel reaches from a coarse one
};

constexpr uint64_t kNoSite = ~uint64_t{0};

/// What proposals can meet.
enum SiteFlags : uint32_t {
  kSiteOutOfRange = 1,  // a site that no coordinate can name
  kLastCoordinate = 2,  // the site whose key is kNoSite
};

struct SiteProposals {
  const Coord* coords;
  ConvGeometry geometry;
  SiteKind kind;
  bool has_shape;
  int64_t shape[3];   // sites outside [0, shape) are left out
  int32_t counts[3];  // proposals along each axis, at most

  /// Proposals of one site.
  TSL_HOST_DEVICE int64_t per_site() const { return int64_t{counts[0]} * counts[1] * counts[2]; }

  /// The n-th position along an axis; false if there are not so many.
  TSL_HOST_DEVICE bool along(int axis, int64_t from, int32_t n, int64_t* to) const {
    if (kind == SiteKind::kFine) {
      *to = geometry.fine_axis(axis, from, n);
      return true;
    }
    if (kind == SiteKind::kCell) {
      *to = floor_div(from, geometry.stride[axis]);
      return true;
    }
    for (int32_t tap = 0; tap < geometry.kernel_size[axis]; ++tap) {
      if (geometry.coarse_axis(axis, from, tap, to) && n-- == 0) return true;
    }
    return false;
  }

  TSL_HOST_DEVICE bool is_inside(int axis, int64_t at) const {
    return !has_shape || (at >= 0 && at < shape[axis]);
  }
};

/// `shape` may be null.
inline SiteProposals site_proposals(const Coord* coords, const ConvGeometry& geometry,
                                    SiteKind kind, const int64_t* shape) {
  SiteProposals proposals{coords, geometry, kind, shape != nullptr, {0, 0, 0}, {1, 1, 1}};
  for (int axis = 0; axis < 3; ++axis) {
    const int32_t taps = geometry.kernel_size[axis];
    // Taps that one site is seen through are this far apart.
    const int32_t apart =
        geometry.stride[axis] / std::gcd(geometry.dilation[axis], geometry.stride[axis]);
    if (shape) proposals.shape[axis] = shape[axis];
    if (kind == SiteKind::kFull) proposals.counts[axis] = (taps + apart - 1) / apart;
    if (kind == SiteKind::kFine) proposals.counts[axis] = taps;
  }
  return proposals;
}

struct WriteProposals {
  SiteProposals proposals;
  uint64_t* keys;
  uint32_t* flags;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    const SiteProposals& p = proposals;
    const Coord& from = p.coords[i / p.per_site()];
    const int32_t n = static_cast<int32_t>(i % p.per_site());
    int64_t x;
    int64_t y;
    int64_t z;
    keys[i] = kNoSite;
    if (is_dead(from)) return;
    if (!p.along(0, from.x, n / (p.counts[1] * p.counts[2]), &x) ||
        !p.along(1, from.y, n / p.counts[2] % p.counts[1], &y) ||
        !p.along(2, from.z, n % p.counts[2], &z)) {
      return;
    }
    if (!p.is_inside(0, x) || !p.is_inside(1, y) || !p.is_inside(2, z)) return;
    if (!axis_in_range(x) || !axis_in_range(y) || !axis_in_range(z)) {
      atomic_or(flags, kSiteOutOfRange);
      return;
    }
    keys[i] = morton_key(Coord{from.batch, static_cast<int32_t>(x), static_cast<int32_t>(y),
                               static_cast<int32_t>(z)});
    if (keys[i] == kNoSite) atomic_or(flags, kLastCoordinate);
  }
};

struct SiteChanges {
  const uint64_t* keys;  // sorted
  const uint32_t* flags;

  TSL_HOST_DEVICE bool operator()(int64_t i) const {
    const bool changes = i == 0 || keys[i] != keys[i - 1];
    return changes && (keys[i] != kNoSite || (*flags & kLastCoordinate) != 0);
  }
};

struct WriteSites {
  const uint64_t* keys;
  Runs runs;
  Coord* sites;

  TSL_HOST_DEVICE void operator()(int64_t i) const {
    if (runs.begins(i) && runs.run_of(i) < runs.room)
      sites[runs.run_of(i)] = coord_from_morton(keys[i]);
  }
};

/// allocate(sites) returns where they go. False if a site lies out of range; nothing is allocated
/// then.
template <class Executor, class Allocate>
bool find_sites(Executor& executor, const SiteProposals& proposals, int64_t count,
                const Allocate& allocate) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1;
  TSL_CHECK(count <= kMost / proposals.per_site(), ValueError,
            "sites: coords must propose fewer than 2^31 sites, got ", count, " times ",
            proposals.per_site(), ". Split the cloud or use a smaller kernel.");
  const int64_t items = count * proposals.per_site();
  const auto [keys, spare, before] =
      scratch<uint64_t, uint64_t, int32_t>(executor, {items, items, items + 2});
  // Read together with the number of sites.
  uint32_t* const flags = reinterpret_cast<uint32_t*>(before + items + 1);
  executor.for_each(1, Fill<uint32_t>{flags, 0});
  executor.for_each(items, WriteProposals{proposals, keys, flags});
  const uint64_t* const sorted = executor.sort(keys, spare, items);
  const Runs runs = number_runs(executor, items, SiteChanges{sorted, flags}, before);
  const auto [num_sites, met] = settle<2>(executor, before + items, {executor.capacity(), 0});
  if ((static_cast<uint32_t>(met) & kSiteOutOfRange) != 0) return false;
  Coord* const sites = allocate(num_sites);
  executor.for_each(items, WriteSites{sorted, runs, sites});
  write_dead(executor, runs, sites);
  return true;
}

}  // namespace tsl
