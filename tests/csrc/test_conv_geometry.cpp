// SPDX-License-Identifier: MIT
// The relation fine = stride * coarse + dilation * tap - padding, read from every side.
#include "core/conv_geometry.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "maps.h"

namespace tsl::test {
namespace {

std::vector<ConvGeometry> small_geometries() {
  std::vector<ConvGeometry> all;
  for (const int32_t kernel_size : {1, 2, 3, 5}) {
    for (const int32_t stride : {1, 2, 3}) {
      for (const int32_t dilation : {1, 2, 3}) {
        for (const int32_t padding : {0, 1, 4}) {
          all.push_back(cubic(kernel_size, stride, dilation, padding));
        }
      }
    }
  }
  all.push_back(ConvGeometry{{3, 1, 2}, {1, 2, 4}, {2, 1, 5}, {2, 0, 3}});
  return all;
}

TEST(taps_are_row_major_with_x_slowest) {
  const ConvGeometry g{{3, 5, 2}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}};
  CHECK_EQ(g.kernel_volume(), 30);
  int32_t index = 0;
  for (int32_t x = 0; x < 3; ++x) {
    for (int32_t y = 0; y < 5; ++y) {
      for (int32_t z = 0; z < 2; ++z) {
        const Tap tap = g.tap(index++);
        CHECK(tap.x == x && tap.y == y && tap.z == z);
      }
    }
  }
  const Tap center = cubic(3, 1, 1, 1).tap(13);
  CHECK(center.x == 1 && center.y == 1 && center.z == 1);
}

TEST(the_axes_do_not_mix) {
  const ConvGeometry g{{3, 1, 2}, {1, 2, 4}, {2, 1, 5}, {2, 0, 3}};
  Coord fine;
  CHECK(g.fine_from_coarse(Coord{3, 10, 20, -30}, Tap{2, 0, 1}, &fine));
  CHECK_EQ(fine, (Coord{3, 10 + 2 * 2 - 2, 2 * 20, 4 * -30 + 5 - 3}));
  int64_t coarse;
  CHECK(g.coarse_axis(2, -118, 1, &coarse));
  CHECK_EQ(coarse, int64_t{-30});
  CHECK(!g.coarse_axis(2, -117, 1, &coarse));
}

TEST(coarse_axis_finds_what_a_search_finds) {
  for (const ConvGeometry& g : small_geometries()) {
    const check::Note note(g);
    for (int64_t fine = -15; fine <= 15; ++fine) {
      for (int32_t tap = 0; tap < g.kernel_size[0]; ++tap) {
        int matches = 0;
        int64_t expected = 0;
        for (int64_t candidate = -40; candidate <= 40; ++candidate) {
          if (g.stride[0] * candidate + g.dilation[0] * tap - g.padding[0] != fine) continue;
          ++matches;
          expected = candidate;
        }
        int64_t coarse;
        CHECK_EQ(g.coarse_axis(0, fine, tap, &coarse), matches == 1);
        if (matches == 1) CHECK_EQ(coarse, expected);
        if (matches == 1) CHECK_EQ(g.fine_axis(0, coarse, tap), fine);
      }
    }
  }
}

TEST(fine_sites_outside_the_range_are_refused_and_never_wrap) {
  const ConvGeometry g = cubic(3, 1, 1, 1);
  Coord fine;
  CHECK(g.fine_from_coarse(Coord{0, kAxisMax, 0, 0}, Tap{1, 1, 1}, &fine));
  CHECK(!g.fine_from_coarse(Coord{0, kAxisMax, 0, 0}, Tap{2, 1, 1}, &fine));
  CHECK(!g.fine_from_coarse(Coord{0, 0, kAxisMin, 0}, Tap{1, 0, 1}, &fine));
  CHECK(!g.fine_from_coarse(Coord{0, 0, 0, kAxisMax}, Tap{1, 1, 2}, &fine));
  const ConvGeometry wide = cubic(2, 1 << 15, 1 << 30, 0);
  CHECK(!wide.fine_from_coarse(Coord{0, kAxisMax, kAxisMax, kAxisMax}, Tap{0, 0, 0}, &fine));
  CHECK(!wide.fine_from_coarse(Coord{0, 0, 0, 0}, Tap{1, 0, 0}, &fine));
  CHECK(!wide.fine_from_coarse(Coord{0, 0, kAxisMin, 0}, Tap{0, 1, 0}, &fine));
  CHECK(wide.fine_from_coarse(Coord{5, 3, -4, 0}, Tap{0, 0, 0}, &fine));
  CHECK_EQ(fine, (Coord{5, 3 << 15, kAxisMin, 0}));
}

TEST(a_cell_contains_its_fine_sites) {
  const ConvGeometry g{{2, 2, 2}, {2, 3, 1}, {1, 1, 1}, {7, 7, 7}};
  for (int32_t v = -50; v <= 50; ++v) {
    const auto cell = [](int32_t fine, int stride) {
      return static_cast<int32_t>(std::floor(fine / static_cast<double>(stride)));
    };
    CHECK_EQ(g.cell_of(Coord{2, v, -v, v}), (Coord{2, cell(v, 2), cell(-v, 3), v}));
  }
  CHECK_EQ(cubic(2, 2, 1, 0).cell_of(Coord{0, kAxisMin, kAxisMax, -1}),
           (Coord{0, kAxisMin / 2, kAxisMax / 2, -1}));
}

TEST(the_coarse_extent_counts_the_windows_that_fit) {
  for (const ConvGeometry& g : small_geometries()) {
    const check::Note note(g);
    for (int64_t size = 0; size <= 20; ++size) {
      int64_t windows = 0;
      const int64_t last_tap = g.dilation[0] * (g.kernel_size[0] - 1);
      while (g.stride[0] * windows + last_tap < size + 2 * g.padding[0]) ++windows;
      CHECK_EQ(g.coarse_extent(0, size), windows);
    }
  }
}

TEST(the_fine_extent_ends_behind_the_last_site_that_is_reached) {
  for (const ConvGeometry& g : small_geometries()) {
    const check::Note note(g);
    for (int64_t size = 1; size <= 10; ++size) {
      const int64_t reach = g.stride[0] * (size - 1) + g.dilation[0] * (g.kernel_size[0] - 1);
      const int64_t extent = reach - g.padding[0] - g.padding[0] + 1;  // cropped on both sides
      CHECK_EQ(g.fine_extent(0, size), extent < 0 ? int64_t{0} : extent);
    }
  }
}

TEST(extents_are_those_of_torch) {
  // Written down from torch 2.13; 0 where torch refuses because nothing would be left.
  CHECK_EQ(cubic(3, 1, 1, 1).coarse_extent(0, 10), int64_t{10});
  CHECK_EQ(cubic(3, 2, 1, 1).coarse_extent(0, 10), int64_t{5});
  CHECK_EQ(cubic(2, 2, 1, 0).coarse_extent(0, 11), int64_t{5});
  CHECK_EQ(cubic(3, 2, 2, 0).coarse_extent(0, 12), int64_t{4});
  CHECK_EQ(cubic(5, 1, 1, 0).coarse_extent(0, 4), int64_t{0});
  CHECK_EQ(cubic(2, 2, 1, 0).fine_extent(0, 5), int64_t{10});
  CHECK_EQ(cubic(3, 2, 1, 1).fine_extent(0, 5), int64_t{9});
  CHECK_EQ(cubic(3, 3, 2, 0).fine_extent(0, 4), int64_t{14});
  CHECK_EQ(cubic(1, 1, 1, 3).fine_extent(0, 4), int64_t{0});
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
