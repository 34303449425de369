// SPDX-License-Identifier: MIT
// A whole inference under capacities: the live rows are those without; with one of the capacities
// too small the flag is raised, and nobody refuses anything.
#include <cstdint>
#include <vector>

#include "capacity.h"
#include "chain.h"
#include "check.h"
#include "clouds.h"
#include "refusal.h"

namespace tsl::test {
namespace {

template <class T>
void check_head(const std::vector<T>& found, const std::vector<T>& expected) {
  CHECK(found.size() >= expected.size());
  CHECK(same_bits(std::vector<T>(found.begin(), found.begin() + size_of(expected)), expected));
}

/// Behind the head all values are the same.
template <class T>
void check_tail(const std::vector<T>& found, const std::vector<T>& expected, const T& tail) {
  check_head(found, expected);
  for (size_t i = expected.size(); i < found.size(); ++i) CHECK_EQ(found[i], tail);
}

void check_map(const MapArrays& found, const MapArrays& expected) {
  check_tail(found.mask, expected.mask, 0u);
  check_tail(found.ptr, expected.ptr, expected.ptr.back());
  CHECK_EQ(found.tap_ptr, expected.tap_ptr);
  check_head(found.rows, expected.rows);
  check_head(found.in_index, expected.in_index);
  check_head(found.out_index, expected.out_index);
  check_head(found.back_in, expected.back_in);
  check_head(found.back_out, expected.back_out);
}

void check_chain(const Chain& found, const Chain& expected) {
  CHECK_EQ(found.overflow, 0);
  check_head(found.point_to_voxel, expected.point_to_voxel);
  check_head(found.order, expected.order);
  check_tail(found.ptr, expected.ptr, expected.ptr.back());
  for (size_t i = 0; i < expected.levels.size(); ++i) {
    const LevelArrays& level = found.levels[i];
    check_tail(level.coords, expected.levels[i].coords, dead_coord());
    check_map(level.cube, expected.levels[i].cube);
    if (i == kSteps) continue;
    check_tail(level.parent, expected.levels[i].parent, 0);
    check_tail(level.child_ptr, expected.levels[i].child_ptr, expected.levels[i].child_ptr.back());
    check_tail(level.child_mask, expected.levels[i].child_mask, uint8_t{0});
    check_map(level.halving, expected.levels[i].halving);
  }
  check_head(found.voxel_feats, expected.voxel_feats);
  check_head(found.out, expected.out);
  check_head(found.halved_out, expected.halved_out);
}

TEST(a_whole_inference_is_the_same_on_the_live_rows) {
  const Coords surface = lidar_surface(192, 10, 60, 1.0, 2);
  Coords twice(surface);
  twice.insert(twice.end(), surface.begin(), surface.end());
  Random(193).shuffle(twice);
  const Coords clouds[] = {{}, {Coord{3, 5, -7, 1}}, dense_cube(5, -2), isolated_voxels(30), twice};
  for (const Coords& points : clouds) {
    const check::Note cloud(points.size(), " points");
    const int64_t most = size_of(points) + 50;
    const std::vector<BFloat16> feats = seeded_values<BFloat16>(194, most * kChannels);
    const Chain expected(points, feats, nullptr);
    for (const int64_t dead : {0, 1, 50}) {
      const check::Note note(dead, " dead rows");
      Sizes capacities(expected.sizes);
      const Coords rows = with_dead_rows(points, dead);
      check_chain(Chain(rows, feats, &capacities), expected);
      for (int64_t& capacity : capacities) capacity += 1 + capacity / 3 + dead;
      check_chain(Chain(rows, feats, &capacities), expected);
    }
    for (size_t call = 0; call < expected.sizes.size(); ++call) {
      const check::Note note("too little for call ", call);
      Sizes capacities(expected.sizes);
      if (at(capacities, call) == 0) continue;
      --at(capacities, call);
      CHECK_EQ(refusal([&] { CHECK_EQ(Chain(points, feats, &capacities).overflow, 1); }), "");
      at(capacities, call) = 0;
      CHECK_EQ(refusal([&] { CHECK_EQ(Chain(points, feats, &capacities).overflow, 1); }), "");
    }
  }
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
