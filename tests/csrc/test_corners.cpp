// SPDX-License-Identifier: MIT
// Corners against the definition of trilinear weights, in double, over a std::map of the voxels.
#include "cpu/corners.h"

#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "maps.h"

namespace tsl::test {
namespace {

constexpr int kPlain = 0;  // threads: the specification, point after point

/// Voxels of two metres at a stride of two: cells of four.
template <class T>
Lattice<T> lattice_at(double anchor) {
  return {{1, 2, 3}, {2, 2, 2}, {2, 2, 2}, static_cast<T>(anchor)};
}

template <class T>
struct Case {
  Coords cells;
  std::vector<T> offset;
  double anchor;

  std::vector<T> xyz() const {
    std::vector<T> xyz;
    for (size_t i = 0; i < cells.size(); ++i) {
      const std::array<int32_t, 3> cell{cells[i].x, cells[i].y, cells[i].z};
      for (size_t axis = 0; axis < 3; ++axis) {
        const double inside = double{offset[3 * i + axis]} + anchor;
        xyz.push_back(static_cast<T>(4 * (cell[axis] + inside) + 1 + static_cast<double>(axis)));
      }
    }
    return xyz;
  }
};

/// Points in and around the voxels.
template <class T>
Case<T> points_near(const Coords& voxels, double anchor, int count) {
  Random random(31);
  Case<T> points{{}, {}, anchor};
  for (int i = 0; i < count; ++i) {
    Coord cell = at(voxels, random.integer(0, size_of(voxels) - 1));
    cell.x += random.axis(-1, 1);
    cell.z += random.axis(-1, 1);
    points.cells.push_back(cell);
    for (int axis = 0; axis < 3; ++axis) {
      const bool is_at_anchor = random.integer(0, 9) == 0;
      points.offset.push_back(is_at_anchor ? T(0) : static_cast<T>(random.real(0, 1) - anchor));
    }
  }
  return points;
}

template <class T>
struct Found {
  std::vector<int64_t> index;
  std::vector<T> weight;
};

template <class T>
Found<T> corners_of(const OwnedHashTable& table, const Case<T>& points, bool renormalize,
                    int threads) {
  const size_t count = points.cells.size();
  Found<T> found{std::vector<int64_t>(count * kCorners, -2), std::vector<T>(count * kCorners, -2)};
  const std::vector<T> xyz = points.xyz();
  const Corners<T> corners{
      table.view,  xyz.data(),         points.cells.data(), lattice_at<T>(points.anchor),
      renormalize, found.index.data(), found.weight.data()};
  if (threads == kPlain) {
    for (int64_t i = 0; i < size_of(points.cells); ++i) corners(i);
  } else {
    cpu::corners(corners, size_of(points.cells), threads);
  }
  return found;
}

/// Weight of a voxel by its distance from the point along each axis: 1 at it, 0 a cell away.
double hat(double distance) { return std::max(0.0, 1 - std::abs(distance)); }

template <class T>
void check_definition(double anchor, double tolerance) {
  const Coords voxels = lidar_surface(33, 16, 100, 0.3);
  const std::map<Key, int32_t> rows = rows_by_coord(voxels);
  const OwnedHashTable table(voxels);
  const Case<T> points = points_near<T>(voxels, anchor, 6000);
  for (const bool renormalize : {false, true}) {
    const Found<T> found = corners_of(table, points, renormalize, kPlain);
    for (size_t i = 0; i < points.cells.size(); ++i) {
      const Coord& cell = points.cells[i];
      const T* const offset = points.offset.data() + 3 * i;
      std::array<double, kCorners> weight{};
      double sum = 0;
      for (int c = 0; c < kCorners; ++c) {
        const size_t place = kCorners * i + static_cast<size_t>(c);
        const std::array<int, 3> step{c / 4 - (offset[0] < 0), c / 2 % 2 - (offset[1] < 0),
                                      c % 2 - (offset[2] < 0)};
        const Coord voxel{cell.batch, cell.x + step[0], cell.y + step[1], cell.z + step[2]};
        const auto row = rows.find(key_of(voxel));
        CHECK_EQ(found.index[place], row == rows.end() ? int64_t{kNoRow} : int64_t{row->second});
        if (row == rows.end()) continue;
        weight[static_cast<size_t>(c)] = hat(double{offset[0]} - step[0]) *
                                         hat(double{offset[1]} - step[1]) *
                                         hat(double{offset[2]} - step[2]);
        sum += weight[static_cast<size_t>(c)];
      }
      for (size_t c = 0; c < kCorners; ++c) {
        const double expected = renormalize && sum > 0 ? weight[c] / sum : weight[c];
        CHECK(std::abs(static_cast<double>(found.weight[kCorners * i + c]) - expected) <=
              tolerance);
      }
    }
  }
}

TEST(rows_and_weights_follow_the_definition) {
  for (const double anchor : {0.0, 0.5}) {
    check_definition<float>(anchor, 1e-4);
    check_definition<double>(anchor, 1e-12);
  }
}

TEST(threads_and_runs_of_points_give_the_same) {
  const Coords voxels = lidar_surface(34, 24, 300, 0.2);
  const OwnedHashTable table(voxels);
  Case<float> points = points_near<float>(voxels, 0.5, 10000);
  for (size_t i = 0; i < 10000; ++i) {  // as a scanner sees them: one after the other in a voxel
    const size_t from = i / 4;
    points.cells.push_back(points.cells[from]);
    for (size_t axis = 0; axis < 3; ++axis) {
      points.offset.push_back(points.offset[3 * (i % 4 == 3 ? i : from) + axis]);
    }
  }
  points.cells[17] = kNowhere;
  points.cells[18] = kNowhere;
  const Found<float> one = corners_of(table, points, true, kPlain);
  for (const int threads : {1, 2, 3}) {
    const Found<float> found = corners_of(table, points, true, threads);
    CHECK(found.index == one.index);
    CHECK(found.weight == one.weight);
  }
}

TEST(at_the_ends_of_the_range_voxels_are_missing) {
  const Coords ends{Coord{0, kAxisMax, kAxisMax, kAxisMax}, Coord{0, kAxisMin, kAxisMin, kAxisMin}};
  const OwnedHashTable table(ends);
  Case<double> points{ends, std::vector<double>(6, 0.25), 0.5};
  points.cells.push_back({0, INT32_MAX, 0, INT32_MIN});
  points.cells.push_back({0, INT32_MIN, INT32_MAX, 0});
  points.offset.resize(12, -0.25);
  const Found<double> found = corners_of(table, points, true, 1);
  for (size_t i = 0; i < found.index.size(); ++i) {
    const bool is_voxel = i == 0 || i == kCorners;
    CHECK_EQ(found.index[i], is_voxel ? static_cast<int64_t>(i / kCorners) : int64_t{kNoRow});
    CHECK_EQ(found.weight[i], is_voxel ? 1.0 : 0.0);
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
