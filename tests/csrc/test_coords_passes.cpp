// SPDX-License-Identifier: MIT
// The passes over coordinates that a GPU runs, on the CPU: each gives what the CPU's own operator
// gives, and waits as seldom as it says.
#include <limits>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "cpu/coords.h"
#include "cpu/sites.h"
#include "executor.h"
#include "kernels/coarsen.h"
#include "kernels/quantize.h"
#include "kernels/sites.h"
#include "kernels/unique_coords.h"
#include "refusal.h"
#include "maps.h"

namespace tsl::test {
namespace {

constexpr int kThreadCounts[] = {1, 3};

/// The small clouds, a large one, and rows that occur several times.
std::vector<NamedCloud> clouds_with_duplicates() {
  std::vector<NamedCloud> clouds = small_clouds();
  const Coords scan = lidar_surface(71, 32, 400, 0.2, 2);
  Coords repeated;
  for (const Coords& part : {scan, range_corners(), scan, range_corners()}) {
    repeated.insert(repeated.end(), part.begin(), part.end());
  }
  Random(72).shuffle(repeated);
  clouds.push_back({"one voxel many times", Coords(9000, Coord{1, -2, 3, -4})});
  clouds.push_back({"repeated", repeated});
  return clouds;
}

template <class T>
void check_quantize(const std::vector<T>& xyz, const std::vector<int32_t>& batch) {
  const int64_t count = size_of(xyz) / 3;
  const double size[3] = {0.05, 0.1, 0.3};
  const double origin[3] = {-0.013, 7.0, 0.1};
  const int32_t* const batch_data = batch.empty() ? nullptr : batch.data();
  Coords expected(static_cast<size_t>(count));
  const QuantizeResult result =
      cpu::quantize(xyz.data(), batch_data, count, size, origin, expected.data(), 1);
  for (const int threads : kThreadCounts) {
    Coords coords(static_cast<size_t>(count));
    Executor executor(threads);
    const auto rows = quantizer(xyz.data(), batch_data, size, origin, coords.data());
    const QuantizeResult found = quantize(executor, rows, count);
    CHECK_EQ(found.bad_row, result.bad_row);
    CHECK_EQ(found.is_finite, result.is_finite);
    if (result.bad_row == kNoRow) CHECK_EQ(coords, expected);
    CHECK(executor.waits() <= (result.bad_row == kNoRow ? 1 : 2));
  }
}

template <class T>
void check_quantize_of_all_kinds() {
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Random random(73);
  std::vector<T> xyz;
  std::vector<int32_t> batch;
  for (int i = 0; i < 20000; ++i) {
    for (int axis = 0; axis < 3; ++axis) xyz.push_back(static_cast<T>(random.real(-60, 60)));
    batch.push_back(random.axis(0, kBatchMax));
  }
  check_quantize(xyz, batch);
  check_quantize(xyz, {});
  check_quantize(std::vector<T>{}, {});
  for (const T bad :
       {kNan, kInfinity, -kInfinity, T(1e9), T(-1e9), std::numeric_limits<T>::max()}) {
    for (const int64_t row : {19999, 7000, 0}) {
      std::vector<T> with_bad(xyz);
      at(with_bad, 3 * row + 1) = bad;
      with_bad.back() = kNan;  // the first bad row counts, not any other
      check_quantize(with_bad, batch);
    }
  }
  for (const int32_t bad_batch : {-1, 1024, INT32_MAX, INT32_MIN}) {
    std::vector<int32_t> with_bad(batch);
    at(with_bad, 12345) = bad_batch;
    check_quantize(xyz, with_bad);
  }
}

TEST(quantize_gives_and_refuses_the_same) {
  check_quantize_of_all_kinds<float>();
  check_quantize_of_all_kinds<double>();
}

TEST(the_first_coordinate_out_of_range_is_the_same) {
  for (NamedCloud& cloud : clouds_with_duplicates()) {
    const check::Note note(cloud.name);
    const int64_t count = size_of(cloud.coords);
    const auto check_first = [&] {
      const int64_t expected = cpu::first_out_of_range(cloud.coords.data(), count, 1);
      for (const int threads : kThreadCounts) {
        Executor executor(threads);
        CHECK_EQ(first_out_of_range(executor, cloud.coords.data(), count), expected);
        CHECK(executor.waits() <= 1);
      }
    };
    check_first();
    for (int64_t row = count - 1; row >= 0; row -= count / 3 + 1) {
      at(cloud.coords, row).z = kAxisMax + 1;
      check_first();
    }
  }
}

TEST(morton_order_is_recognised_the_same) {
  const auto check_order = [](const Coords& coords) {
    const bool expected = cpu::is_morton_ordered(coords.data(), size_of(coords), 1);
    for (const int threads : kThreadCounts) {
      Executor executor(threads);
      CHECK_EQ(is_morton_ordered(executor, coords.data(), size_of(coords)), expected);
      CHECK(executor.waits() <= 1);
    }
  };
  for (const NamedCloud& cloud : clouds_with_duplicates()) {
    const check::Note note(cloud.name);
    check_order(cloud.coords);
    Coords sorted = morton_sorted(cloud.coords);
    check_order(sorted);
    sorted = without_duplicates(sorted);
    check_order(sorted);
    if (sorted.size() > 1) std::swap(sorted.back(), sorted.end()[-2]);
    check_order(sorted);
  }
}

void check_unique(const Coords& coords) {
  const int64_t count = size_of(coords);
  const cpu::UniqueCoords expected = cpu::unique_coords(coords.data(), count, 1);
  for (const int threads : kThreadCounts) {
    std::vector<int64_t> point_to_voxel(coords.size(), -9);
    std::vector<int64_t> order(coords.size(), -9);
    std::vector<int64_t> ptr;
    Coords voxels;
    const auto allocate = [&](int64_t groups, UniqueArrays* out) {
      voxels.resize(static_cast<size_t>(groups));
      ptr.assign(static_cast<size_t>(groups) + 1, -9);
      out->voxels = voxels.data();
      out->ptr = ptr.data();
    };
    Executor executor(threads);
    const UniqueArrays out{point_to_voxel.data(), order.data(), nullptr, nullptr};
    CHECK_EQ(unique_coords(executor, coords.data(), count, out, allocate), int64_t{kNoRow});
    CHECK_EQ(executor.waits(), 1);
    CHECK(std::equal(order.begin(), order.end(), expected.order.begin(), expected.order.end()));
    CHECK(std::equal(ptr.begin(), ptr.end(), expected.group_ptr.begin(), expected.group_ptr.end()));
    for (int64_t group = 0; group < size_of(voxels); ++group) {
      for (int64_t i = at(ptr, group); i < at(ptr, group + 1); ++i) {
        CHECK_EQ(at(point_to_voxel, at(order, i)), group);
        CHECK_EQ(at(coords, at(order, i)), at(voxels, group));
      }
    }
  }
}

TEST(unique_coords_are_the_same) {
  for (const NamedCloud& cloud : clouds_with_duplicates()) {
    const check::Note note(cloud.name);
    check_unique(cloud.coords);
  }
}

TEST(unique_coords_name_the_first_row_out_of_range_and_allocate_nothing) {
  Coords coords = lidar_surface(74, 16, 300, 0.2);
  at(coords, size_of(coords) - 1).batch = -1;
  at(coords, 777).x = kAxisMin - 1;
  for (const int threads : kThreadCounts) {
    std::vector<int64_t> rows(2 * coords.size());
    Executor executor(threads);
    const UniqueArrays out{rows.data(), rows.data() + coords.size(), nullptr, nullptr};
    const auto allocate = [](int64_t, UniqueArrays*) { CHECK(false); };
    CHECK_EQ(unique_coords(executor, coords.data(), size_of(coords), out, allocate), int64_t{777});
  }
}

void check_coarsen(const Coords& coords) {
  const cpu::Coarsened expected = cpu::coarsen(coords.data(), size_of(coords), 1);
  for (const int threads : kThreadCounts) {
    std::vector<int32_t> parent(coords.size(), -9);
    Coords coarse;
    std::vector<int32_t> child_ptr;
    std::vector<uint8_t> child_mask;
    const auto allocate = [&](int64_t cells, CoarsenedArrays* out) {
      coarse.resize(static_cast<size_t>(cells));
      child_ptr.assign(static_cast<size_t>(cells) + 1, -9);
      child_mask.assign(static_cast<size_t>(cells), 0xee);
      out->coarse = coarse.data();
      out->child_ptr = child_ptr.data();
      out->child_mask = child_mask.data();
    };
    Executor executor(threads);
    coarsen(executor, coords.data(), size_of(coords),
            CoarsenedArrays{parent.data(), nullptr, nullptr, nullptr}, allocate);
    CHECK_EQ(executor.waits(), 1);
    CHECK_EQ(child_ptr, expected.child_ptr);
    CHECK_EQ(child_mask, expected.child_mask);
    for (int64_t cell = 0; cell < size_of(coarse); ++cell) {
      for (int32_t row = at(child_ptr, cell); row < at(child_ptr, cell + 1); ++row) {
        CHECK_EQ(int64_t{at(parent, row)}, cell);
        const Coord& c = at(coords, row);
        CHECK_EQ(at(coarse, cell), (Coord{c.batch, c.x >> 1, c.y >> 1, c.z >> 1}));
      }
    }
  }
}

TEST(every_level_of_the_pyramid_is_the_same) {
  for (const NamedCloud& cloud : clouds_with_duplicates()) {
    const check::Note note(cloud.name);
    Coords level = morton_sorted(without_duplicates(cloud.coords));
    for (int step = 0; step < kAxisBits; ++step) {
      check_coarsen(level);
      for (Coord& c : level) c = parent_of(c);
      level = without_duplicates(level);
    }
    check_coarsen(cloud.coords);  // without Morton order the result is of no use, and the same
  }
}

void check_sites(const Coords& coords, const SiteProposals& proposals, const cpu::Sites& expected) {
  for (const int threads : kThreadCounts) {
    Executor executor(threads);
    Coords sites{Coord{-1, -1, -1, -1}};
    const auto allocate = [&](int64_t count) {
      sites.assign(static_cast<size_t>(count), Coord{-1, -1, -1, -1});
      return sites.data();
    };
    const bool all_in_range = find_sites(executor, proposals, size_of(coords), allocate);
    CHECK_EQ(executor.waits(), 1);
    CHECK_EQ(all_in_range, expected.all_in_range);
    if (all_in_range) CHECK_EQ(sites, expected.coords);
  }
}

TEST(output_sites_are_the_same) {
  const ConvGeometry geometries[] = {cubic(1, 1, 1, 0),
                                     cubic(2, 2, 1, 0),
                                     cubic(3, 2, 1, 1),
                                     cubic(3, 1, 1, 1),
                                     cubic(2, 3, 2, 1),
                                     cubic(3, 2, 2, 0),
                                     cubic(4, 2, 3, 2),
                                     cubic(1, 2, 2, 0),
                                     cubic(2, 1 << 17, 1 << 16, 0),
                                     ConvGeometry{{5, 1, 4}, {4, 2, 6}, {6, 1, 4}, {2, 0, 3}},
                                     ConvGeometry{{3, 1, 2}, {1, 2, 4}, {2, 1, 5}, {2, 0, 3}}};
  const int64_t* const no_shape = nullptr;
  const int64_t box[3] = {7, 5, 12};
  const int64_t half[3] = {kAxisMax + 1, kAxisMax + 1, kAxisMax + 1};
  for (const NamedCloud& cloud : clouds_with_duplicates()) {
    for (const ConvGeometry& g : geometries) {
      for (const int64_t* const shape : {no_shape, box, half}) {
        const check::Note note(cloud.name, ", ", g);
        const Coord* const coords = cloud.coords.data();
        const int64_t count = size_of(cloud.coords);
        check_sites(cloud.coords, site_proposals(coords, g, SiteKind::kFull, shape),
                    cpu::coarse_sites(coords, count, g, cpu::StrideRule::kFull, shape, 1));
        check_sites(cloud.coords, site_proposals(coords, g, SiteKind::kCell, shape),
                    cpu::coarse_sites(coords, count, g, cpu::StrideRule::kCell, shape, 1));
        check_sites(cloud.coords, site_proposals(coords, g, SiteKind::kFine, shape),
                    cpu::fine_sites(coords, count, g, shape, 1));
      }
    }
  }
}

TEST(too_many_proposals_are_refused) {
  const Coords coords(1 << 10);
  const SiteProposals proposals =
      site_proposals(coords.data(), cubic(128, 1, 1, 0), SiteKind::kFine, nullptr);
  const auto allocate = [](int64_t) -> Coord* { return nullptr; };
  Executor executor(1);
  CHECK(refusal([&] { find_sites(executor, proposals, size_of(coords), allocate); }) != "");
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
