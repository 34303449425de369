// SPDX-License-Identifier: MIT
#include "cpu/sites.h"

#include <algorithm>

#include "cpu/coords.h"
#include "cpu/parallel.h"

namespace tsl::cpu {
namespace {

/// Candidates pile up to this many before duplicates are squeezed out: bounds the memory for large
/// kernels, where every site is proposed many times.
constexpr size_t kMaxCandidates = size_t{1} << 22;

class SiteSet {
 public:
  SiteSet(const int64_t* shape, int threads) : shape_(shape), threads_(threads) {}

  void add(int32_t batch, int64_t x, int64_t y, int64_t z) {
    if (batch == kDeadBatch) return;
    if (shape_ && (x < 0 || y < 0 || z < 0 || x >= shape_[0] || y >= shape_[1] || z >= shape_[2])) {
      return;
    }
    if (!axis_in_range(x) || !axis_in_range(y) || !axis_in_range(z)) {
      all_in_range_ = false;
      return;
    }
    const Coord site{batch, static_cast<int32_t>(x), static_cast<int32_t>(y),
                     static_cast<int32_t>(z)};
    if (!sites_.empty() && sites_.back() == site)
      return;  // neighbouring rows often propose the same
    if (sites_.size() >= limit_) {
      squeeze();
      limit_ = std::max(kMaxCandidates, 2 * sites_.size());
    }
    sites_.push_back(site);
  }

  Sites take() {
    squeeze();
    return Sites{std::move(sites_), all_in_range_};
  }

 private:
  void squeeze() {
    const int64_t count = static_cast<int64_t>(sites_.size());
    if (is_morton_ordered(sites_.data(), count, threads_)) return;
    const UniqueCoords unique = unique_coords(sites_.data(), count, threads_);
    std::vector<Coord> kept(unique.group_ptr.size() - 1);
    for (size_t i = 0; i < kept.size(); ++i) {
      kept[i] = sites_[static_cast<size_t>(unique.order[static_cast<size_t>(unique.group_ptr[i])])];
    }
    sites_ = std::move(kept);
  }

  const int64_t* shape_;
  int threads_;
  bool all_in_range_ = true;
  size_t limit_ = kMaxCandidates;
  std::vector<Coord> sites_;
};

/// The coarse positions along one axis whose windows hold `fine`.
void windows_over(const ConvGeometry& geometry, int axis, int64_t fine, std::vector<int64_t>* out) {
  out->clear();
  for (int32_t tap = 0; tap < geometry.kernel_size[axis]; ++tap) {
    int64_t coarse;
    if (geometry.coarse_axis(axis, fine, tap, &coarse)) out->push_back(coarse);
  }
}

}  // namespace

Sites coarse_sites(const Coord* fine, int64_t count, const ConvGeometry& geometry, StrideRule rule,
                   const int64_t* shape, int threads) {
  SiteSet sites(shape, threads);
  std::vector<int64_t> xs;
  std::vector<int64_t> ys;
  std::vector<int64_t> zs;
  for (int64_t i = 0; i < count; ++i) {
    if (rule == StrideRule::kCell) {
      const Coord cell = geometry.cell_of(fine[i]);
      sites.add(cell.batch, cell.x, cell.y, cell.z);
      continue;
    }
    windows_over(geometry, 0, fine[i].x, &xs);
    windows_over(geometry, 1, fine[i].y, &ys);
    windows_over(geometry, 2, fine[i].z, &zs);
    for (const int64_t x : xs) {
      for (const int64_t y : ys) {
        for (const int64_t z : zs) sites.add(fine[i].batch, x, y, z);
      }
    }
  }
  return sites.take();
}

Sites fine_sites(const Coord* coarse, int64_t count, const ConvGeometry& geometry,
                 const int64_t* shape, int threads) {
  SiteSet sites(shape, threads);
  for (int64_t i = 0; i < count; ++i) {
    for (int32_t x = 0; x < geometry.kernel_size[0]; ++x) {
      for (int32_t y = 0; y < geometry.kernel_size[1]; ++y) {
        for (int32_t z = 0; z < geometry.kernel_size[2]; ++z) {
          sites.add(coarse[i].batch, geometry.fine_axis(0, coarse[i].x, x),
                    geometry.fine_axis(1, coarse[i].y, y), geometry.fine_axis(2, coarse[i].z, z));
        }
      }
    }
  }
  return sites.take();
}

}  // namespace tsl::cpu
