// SPDX-License-Identifier: MIT
// Passes over coordinates under a capacity: live rows are those of a call without one, the others
// are dead, and where there is not enough room the flag is raised and nothing is written outside.
#include <limits>
#include <vector>

#include "capacity.h"
#include "check.h"
#include "clouds.h"
#include "cpu/coords.h"
#include "cpu/sites.h"
#include "kernels/coarsen.h"
#include "kernels/quantize.h"
#include "kernels/sites.h"
#include "kernels/unique_coords.h"
#include "maps.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 3};
constexpr int64_t kDeadRows[] = {0, 33};
constexpr double kVoxelSize[3] = {0.1, 0.2, 0.3};
constexpr double kOrigin[3] = {1, 2, 3};

std::vector<NamedCloud> clouds() {
  std::vector<NamedCloud> all = small_clouds();
  const Coords scan = lidar_surface(171, 12, 100, 0.5, 2);
  Coords repeated;
  for (int i = 0; i < 3; ++i) repeated.insert(repeated.end(), scan.begin(), scan.end());
  Random(172).shuffle(repeated);
  all.push_back({"one voxel many times", Coords(700, Coord{1, -2, 3, -4})});
  all.push_back({"repeated", repeated});
  return all;
}

/// points (N, 3) and their batch, quantised under a capacity.
struct Quantized {
  Guarded<Coord> coords;
  int32_t overflow;

  Quantized(const std::vector<float>& xyz, const std::vector<int32_t>& batch, int threads)
      : coords(size_of(xyz) / 3) {
    Bounded bounded(threads, coords.size());
    const auto rows = quantizer(xyz.data(), batch.data(), kVoxelSize, kOrigin, coords.data());
    const QuantizeResult result = quantize(bounded.executor, rows, coords.size());
    CHECK_EQ(result.bad_row, int64_t{kNoRow});
    overflow = bounded.overflow;
  }
};

TEST(points_of_batch_minus_one_and_those_that_do_not_fit_are_dead) {
  Random random(173);
  std::vector<float> xyz;
  std::vector<int32_t> batch;
  for (int i = 0; i < 9000; ++i) {
    for (int axis = 0; axis < 3; ++axis) xyz.push_back(static_cast<float>(random.real(-60, 60)));
    batch.push_back(random.axis(-1, 3));
  }
  for (const int threads : kThreadCounts) {
    const Quantized good(xyz, batch, threads);
    CHECK_EQ(good.overflow, 0);
    for (int64_t i = 0; i < size_of(batch); ++i) {
      CHECK_EQ(is_dead(good.coords[i]), at(batch, i) < 0);
      const float* const at_m = xyz.data() + 3 * i;
      Coord alone = dead_coord();
      const auto row = quantizer(at_m, batch.data() + i, kVoxelSize, kOrigin, &alone);
      if (row.row(0)) CHECK_EQ(good.coords[i], alone);
    }
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), 1e9f, -1e9f}) {
      std::vector<float> spoiled(xyz);
      std::vector<int32_t> live(batch);
      at(spoiled, 3 * 77 + 1) = bad;
      at(live, 77) = -1;
      CHECK_EQ(Quantized(spoiled, live, threads).overflow, 0);
      at(live, 77) = 2;
      const Quantized found(spoiled, live, threads);
      CHECK(found.overflow == 1 && found.coords[77] == dead_coord());
    }
  }
  for (const int32_t bad : {-2, kBatchMax + 1}) {
    at(batch, 8999) = bad;
    CHECK_EQ(Quantized(xyz, batch, 1).overflow, 1);
  }
}

struct Grouped {
  Guarded<int64_t> point_to_voxel, order, ptr;
  Guarded<Coord> voxels;
  int32_t overflow;

  Grouped(const Coords& coords, int64_t capacity, int threads)
      : point_to_voxel(size_of(coords)),
        order(size_of(coords)),
        ptr(capacity + 1),
        voxels(capacity) {
    Bounded bounded(threads, capacity);
    const auto allocate = [&](int64_t groups, UniqueArrays* out) {
      CHECK_EQ(groups, capacity);
      *out = UniqueArrays{out->point_to_voxel, out->order, voxels.data(), ptr.data()};
    };
    unique_coords(bounded.executor, coords.data(), size_of(coords),
                  UniqueArrays{point_to_voxel.data(), order.data(), nullptr, nullptr}, allocate);
    overflow = bounded.overflow;
  }

  void check_inside(int64_t count) const {
    check_ptr(ptr, count);
    std::vector<int64_t> rows = order.head(count);
    std::sort(rows.begin(), rows.end());
    for (int64_t row = 0; row < count; ++row) {
      CHECK_EQ(at(rows, row), row);
      CHECK(point_to_voxel[row] >= 0 && point_to_voxel[row] < std::max<int64_t>(voxels.size(), 1));
    }
  }
};

/// Of rows of which some are dead, anywhere.
void check_unique(const Coords& rows) {
  std::vector<int64_t> live;
  Coords coords;
  for (int64_t row = 0; row < size_of(rows); ++row) {
    if (is_dead(at(rows, row))) continue;
    live.push_back(row);
    coords.push_back(at(rows, row));
  }
  const cpu::UniqueCoords expected = cpu::unique_coords(coords.data(), size_of(coords), 1);
  const int64_t groups = size_of(expected.group_ptr) - 1;
  for (const int64_t capacity : capacities_around(groups)) {
    const check::Note note(capacity, " rows for ", groups);
    for (const int threads : kThreadCounts) {
      const Grouped found(rows, capacity, threads);
      CHECK_EQ(found.overflow, groups > capacity || has_last_coordinate(rows) ? 1 : 0);
      found.check_inside(size_of(rows));
      if (found.overflow) continue;
      check_dead(found.voxels, groups);
      for (int64_t group = 0; group <= capacity; ++group) {
        CHECK_EQ(found.ptr[group],
                 group < groups ? at(expected.group_ptr, group) : size_of(coords));
      }
      for (int64_t group = 0; group < groups; ++group) {
        for (int64_t i = found.ptr[group]; i < found.ptr[group + 1]; ++i) {
          CHECK_EQ(found.order[i], at(live, at(expected.order, i)));
          CHECK_EQ(found.point_to_voxel[found.order[i]], group);
          CHECK_EQ(found.voxels[group], at(rows, found.order[i]));
        }
      }
      for (int64_t i = size_of(coords); i < size_of(rows); ++i) {
        CHECK(is_dead(at(rows, found.order[i])));
        CHECK_EQ(found.point_to_voxel[found.order[i]], int64_t{0});
      }
    }
  }
}

TEST(unique_coords_leave_dead_rows_out) {
  for (const NamedCloud& cloud : clouds()) {
    const check::Note note(cloud.name);
    for (const int64_t dead : kDeadRows) check_unique(with_dead_rows(cloud.coords, dead));
    Coords mixed = with_dead_rows(cloud.coords, 20);
    Random(174).shuffle(mixed);
    check_unique(mixed);
  }
}

TEST(unique_coords_out_of_range_raise_the_flag) {
  Coords coords = lidar_surface(175, 8, 100, 0.5);
  CHECK_EQ(Grouped(coords, size_of(coords), 1).overflow, 0);
  for (const Coord& bad : {Coord{-2, 0, 0, 0}, Coord{0, kAxisMax + 1, 0, 0}}) {
    Coords spoiled(coords);
    at(spoiled, 55) = bad;
    const Grouped found(spoiled, size_of(coords), 1);
    CHECK_EQ(found.overflow, 1);
    found.check_inside(size_of(coords));
  }
}

struct Halved {
  Guarded<int32_t> parent, child_ptr;
  Guarded<Coord> coarse;
  Guarded<uint8_t> child_mask;
  int32_t overflow;

  Halved(const Coords& coords, int64_t capacity, int threads)
      : parent(size_of(coords)), child_ptr(capacity + 1), coarse(capacity), child_mask(capacity) {
    Bounded bounded(threads, capacity);
    const auto allocate = [&](int64_t cells, CoarsenedArrays* out) {
      CHECK_EQ(cells, capacity);
      *out = CoarsenedArrays{out->parent, coarse.data(), child_ptr.data(), child_mask.data()};
    };
    coarsen(bounded.executor, coords.data(), size_of(coords),
            CoarsenedArrays{parent.data(), nullptr, nullptr, nullptr}, allocate);
    overflow = bounded.overflow;
  }
};

/// Level is unique and in Morton order.
void check_coarsen(const Coords& level, int64_t dead) {
  const Coords rows = with_dead_rows(level, dead);
  const cpu::Coarsened expected = cpu::coarsen(level.data(), size_of(level), 1);
  const cpu::Coarsened padded = cpu::coarsen(rows.data(), size_of(rows), 2);
  CHECK_EQ(padded.child_ptr, expected.child_ptr);
  CHECK_EQ(padded.child_mask, expected.child_mask);
  const int64_t cells = size_of(expected.child_mask);
  for (const int64_t capacity : capacities_around(cells)) {
    const check::Note note(capacity, " cells for ", cells);
    const Halved found(rows, capacity, 2);
    CHECK_EQ(found.overflow, cells > capacity ? 1 : 0);
    check_ptr(found.child_ptr, size_of(level));
    check_dead(found.coarse, cells);
    for (int64_t cell = 0; cell < capacity; ++cell) {
      const int32_t begin = found.child_ptr[cell];
      CHECK_EQ(count_bits(found.child_mask[cell]), found.child_ptr[cell + 1] - begin);
      CHECK_EQ(found.child_mask[cell], cell < cells ? at(expected.child_mask, cell) : uint8_t{0});
      if (cell < cells) CHECK_EQ(found.coarse[cell], parent_of(at(level, begin)));
    }
    for (int64_t cell = 0; cell <= capacity; ++cell) {
      CHECK_EQ(found.child_ptr[cell], at(expected.child_ptr, std::min(cell, cells)));
    }
    for (int64_t row = 0; row < size_of(rows); ++row) {
      const bool is_written = row < size_of(level) && row < found.child_ptr[capacity];
      const int32_t parent = found.parent[row];
      if (!is_written) CHECK_EQ(parent, 0);
      if (is_written) CHECK_EQ(found.coarse[parent], parent_of(at(level, row)));
    }
  }
}

TEST(every_level_of_the_pyramid_leaves_dead_rows_out) {
  for (const NamedCloud& cloud : clouds()) {
    const check::Note note(cloud.name);
    Coords level = morton_sorted(without_duplicates(cloud.coords));
    for (int step = 0; step < kAxisBits; step += 1 + step / 3) {
      for (const int64_t dead : kDeadRows) check_coarsen(level, dead);
      for (Coord& c : level) c = parent_of(c);
      level = without_duplicates(level);
    }
  }
}

void check_sites(const Coords& coords, const ConvGeometry& g, SiteKind kind,
                 const cpu::Sites& expected) {
  const int64_t count = size_of(expected.coords);
  const Coords rows = with_dead_rows(coords, 33);
  for (const int64_t capacity : capacities_around(count)) {
    const check::Note note(capacity, " sites for ", count, ", kind ", static_cast<int>(kind));
    Guarded<Coord> sites(capacity);
    Bounded bounded(2, capacity);
    const auto allocate = [&](int64_t size) {
      CHECK_EQ(size, capacity);
      return sites.data();
    };
    const SiteProposals proposals = site_proposals(rows.data(), g, kind, nullptr);
    CHECK(find_sites(bounded.executor, proposals, size_of(rows), allocate));
    const bool is_met = !expected.all_in_range || has_last_coordinate(expected.coords);
    CHECK_EQ(bounded.overflow, is_met || count > capacity ? 1 : 0);
    if (is_met) continue;
    check_dead(sites, count);
    const int64_t written = std::min(count, capacity);
    const Coords first(expected.coords.begin(), expected.coords.begin() + written);
    CHECK_EQ(sites.head(count), first);
  }
}

TEST(dead_rows_propose_no_sites) {
  for (const NamedCloud& cloud : clouds()) {
    const Coords rows = with_dead_rows(cloud.coords, 5);
    for (const ConvGeometry& g : {cubic(1, 1, 1, 0), cubic(2, 2, 1, 0), cubic(3, 2, 1, 1)}) {
      const check::Note note(cloud.name, ", ", g);
      const auto on_cpu = [&](SiteKind kind, const Coords& coords) {
        const bool is_cell = kind == SiteKind::kCell;
        const auto rule = is_cell ? cpu::StrideRule::kCell : cpu::StrideRule::kFull;
        const int64_t count = size_of(coords);
        return kind == SiteKind::kFine
                   ? cpu::fine_sites(coords.data(), count, g, nullptr, 1)
                   : cpu::coarse_sites(coords.data(), count, g, rule, nullptr, 1);
      };
      for (const SiteKind kind : {SiteKind::kFull, SiteKind::kCell, SiteKind::kFine}) {
        const cpu::Sites expected = on_cpu(kind, cloud.coords);
        CHECK_EQ(on_cpu(kind, rows).coords, expected.coords);
        check_sites(cloud.coords, g, kind, expected);
      }
    }
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
