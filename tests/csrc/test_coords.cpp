// SPDX-License-Identifier: MIT
// Coordinates on the CPU: threads, sorting, quantisation, uniqueness, the pyramid, output sites.
#include "cpu/coords.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "check.h"
#include "clouds.h"
#include "cpu/parallel.h"
#include "cpu/radix_sort.h"
#include "cpu/sites.h"
#include "maps.h"

namespace tsl::test {
namespace {

constexpr double kNoOrigin[3] = {0, 0, 0};
constexpr int kThreadCounts[] = {1, 2, 3};

/// Rows of a scan three times over, more than two threads' blocks, in no order.
Coords many_duplicates() {
  const Coords scan = lidar_surface(41, 32, 500, 0.2, 2);
  Coords coords;
  for (int copy = 0; copy < 3; ++copy) coords.insert(coords.end(), scan.begin(), scan.end());
  Random(42).shuffle(coords);
  return coords;
}

TEST(every_task_runs_once_and_workers_are_numbered) {
  for (const int threads : {-1, 0, 1, 2, 3, 8}) {
    for (const int64_t tasks : {0, 1, 2, 7, 1000}) {
      const check::Note note(tasks, " tasks, ", threads, " threads");
      const int workers = cpu::worker_count(tasks, threads);
      CHECK(workers >= 1 && workers <= std::max(threads, 1) &&
            workers <= std::max<int64_t>(tasks, 1));
      std::vector<int> runs(static_cast<size_t>(tasks), 0);
      std::vector<int> worker_of(static_cast<size_t>(tasks), -1);
      cpu::parallel_tasks(tasks, threads, [&](int64_t task, int worker) {
        ++at(runs, task);
        at(worker_of, task) = worker;
      });
      CHECK_EQ(runs, std::vector<int>(static_cast<size_t>(tasks), 1));
      for (const int worker : worker_of) CHECK(worker >= 0 && worker < workers);
    }
  }
}

TEST(blocks_cover_the_items_without_gaps) {
  for (const int threads : {1, 2, 3, 7}) {
    for (const int64_t count : {0, 1, 99, 100, 199, 200, 1001, 100000}) {
      const cpu::Blocks blocks(count, 100, threads);
      CHECK(blocks.blocks >= 1 && blocks.blocks <= threads);
      CHECK_EQ(blocks.begin(0), int64_t{0});
      CHECK_EQ(blocks.end(blocks.blocks - 1), count);
      for (int64_t block = 0; block < blocks.blocks; ++block) {
        CHECK(blocks.blocks == 1 || blocks.end(block) - blocks.begin(block) >= 100);
      }
    }
  }
}

TEST(a_forked_child_stays_serial_and_finishes) {
  const Coords coords = many_duplicates();
  const std::vector<int32_t> expected = cpu::unique_coords(coords.data(), size_of(coords), 3).order;
  CHECK(!cpu::is_forked_child());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that waits for threads that do not exist would wait for ever
    const bool is_serial = cpu::is_forked_child() && cpu::worker_count(1000, 8) == 1;
    const bool is_right = cpu::unique_coords(coords.data(), size_of(coords), 3).order == expected;
    _exit(is_serial && is_right ? 0 : 1);
  }
  int status = -1;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  CHECK(!cpu::is_forked_child());
}

struct Record {
  uint64_t key;
  int32_t row;
};

bool operator==(const Record& a, const Record& b) { return a.key == b.key && a.row == b.row; }
std::ostream& operator<<(std::ostream& stream, const Record& r) {
  return stream << r.key << "@" << r.row;
}

TEST(the_radix_sort_is_stable_for_every_key_width_and_thread_count) {
  for (const int key_bits : {0, 1, 5, 9, 10, 11, 20, 21, 30, 31, 45, 63, 64}) {
    for (const int count : {0, 1, 2, 100, 4095, 13000}) {
      const check::Note note(key_bits, " bits, ", count, " records");
      Random random(43 + static_cast<uint64_t>(key_bits));
      const uint64_t mask = key_bits == 0 ? 0 : ~uint64_t{0} >> (64 - key_bits);
      std::vector<Record> records;
      for (int32_t i = 0; i < count; ++i) {
        const uint64_t key = random.bits() & mask;
        // Every other key from a small set, so that there are runs of equal keys to keep in order.
        records.push_back(Record{i % 2 ? key : key & 0xf00f & mask, i});
      }
      std::vector<Record> expected(records);
      std::stable_sort(expected.begin(), expected.end(),
                       [](const Record& a, const Record& b) { return a.key < b.key; });
      for (const int threads : kThreadCounts) {
        std::vector<Record> sorted(records);
        std::vector<Record> scratch(records.size());
        cpu::radix_sort(sorted, scratch, key_bits, threads, [](const Record& r) { return r.key; });
        CHECK_EQ(sorted, expected);
      }
    }
  }
}

/// One point on the diagonal.
template <class T>
int32_t cell_of(T value, double voxel_size, double origin = 0) {
  const T xyz[3] = {value, value, value};
  const double size[3] = {voxel_size, voxel_size, voxel_size};
  const double shift[3] = {origin, origin, origin};
  Coord c{-1, 0, 0, 0};
  CHECK_EQ(cpu::quantize(xyz, nullptr, 1, size, shift, &c, 1).bad_row, cpu::kNoBadRow);
  CHECK_EQ(c, (Coord{0, c.x, c.x, c.x}));
  return c.x;
}

TEST(quantize_computes_in_the_type_of_the_points) {
  // By numpy: floor(np.float32(x) / np.float32(v)) and floor(x / v).
  const struct {
    double x, voxel_size;
    int32_t float32, float64;
  } cases[] = {{0.3, 0.1, 3, 2},    {0.6, 0.2, 3, 2},      {0.7, 0.1, 7, 6},
               {-0.3, 0.1, -3, -3}, {1.0, 0.1, 10, 10},    {2.3, 0.1, 23, 22},
               {0.15, 0.05, 3, 2},  {-0.05, 0.05, -1, -1}, {4.35, 0.05, 87, 86},
               {0.35, 0.05, 7, 6},  {6.9, 0.1, 69, 69},    {16.35, 0.05, 327, 327},
               {-0.0, 0.1, 0, 0},   {-1e-30, 0.1, -1, -1}};
  for (const auto& c : cases) {
    const check::Note note(c.x, " / ", c.voxel_size);
    CHECK_EQ(cell_of(static_cast<float>(c.x), c.voxel_size), c.float32);
    CHECK_EQ(cell_of(c.x, c.voxel_size), c.float64);
  }
}

TEST(quantize_is_exact_at_the_borders_of_binary_voxels) {
  for (const double size : {0.0625, 0.5, 1.0, 2.0}) {
    for (const int32_t cell : {-131072, -1000, -1, 0, 1, 1000, 131071}) {
      const check::Note note("cell ", cell, " of ", size);
      const float low = static_cast<float>(cell * size);
      CHECK_EQ(cell_of(low, size), cell);
      CHECK_EQ(cell_of(cell * size, size), cell);
      if (cell == -1) continue;  // a subnormal distance from zero vanishes in the division
      const float last = std::nextafterf(static_cast<float>((cell + 1.0) * size), low);
      CHECK_EQ(cell_of(last, size), cell);
      CHECK_EQ(cell_of(std::nextafter((cell + 1.0) * size, cell * size), size), cell);
    }
  }
  CHECK_EQ(cell_of(-std::numeric_limits<float>::min(), 0.5), -1);
  CHECK_EQ(cell_of(10.0f, 0.5, 10.0), 0);
  CHECK_EQ(cell_of(9.99f, 0.5, 10.0), -1);
}

TEST(quantize_rounds_every_operation_once) {
  Random random(44);
  const double size[3] = {0.05, 0.1, 0.37};
  const double origin[3] = {-12.3, 0.7, 100.1};
  std::vector<float> xyz;
  std::vector<int32_t> batch;
  for (int i = 0; i < 20000; ++i) {
    for (int axis = 0; axis < 3; ++axis)
      xyz.push_back(static_cast<float>(random.real(-80.0, 80.0)));
    batch.push_back(random.axis(0, kBatchMax));
  }
  const auto expected = [&](size_t i, int axis) {
    // A float difference or quotient is the double one rounded: 53 bits are enough for that.
    const double from = xyz[3 * i + static_cast<size_t>(axis)];
    const float difference =
        static_cast<float>(from - static_cast<double>(static_cast<float>(origin[axis])));
    const double divisor = static_cast<double>(static_cast<float>(size[axis]));
    return static_cast<int32_t>(
        std::floor(static_cast<float>(static_cast<double>(difference) / divisor)));
  };
  for (const int threads : kThreadCounts) {
    Coords coords(batch.size());
    const cpu::QuantizeResult result = cpu::quantize(xyz.data(), batch.data(), size_of(batch), size,
                                                     origin, coords.data(), threads);
    CHECK_EQ(result.bad_row, cpu::kNoBadRow);
    for (size_t i = 0; i < coords.size(); ++i) {
      CHECK_EQ(coords[i], (Coord{batch[i], expected(i, 0), expected(i, 1), expected(i, 2)}));
    }
  }
}

template <class T>
void check_refusals() {
  constexpr int64_t kCount = 10000;
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const double unit[3] = {1, 1, 1};
  const struct {
    T value;
    bool is_bad, is_finite;
  } cases[] = {{kNan, true, false},
               {-kNan, true, false},
               {kInfinity, true, false},
               {-kInfinity, true, false},
               {T(131072), true, true},
               {std::nextafter(T(-131072), T(-200000)), true, true},
               {std::numeric_limits<T>::max(), true, true},
               {std::numeric_limits<T>::lowest(), true, true},
               {T(131071.9), false, true},
               {T(-131072), false, true}};
  for (const auto& c : cases) {
    for (const int64_t row : {int64_t{0}, int64_t{4999}, kCount - 1}) {
      for (int axis = 0; axis < 3; ++axis) {
        for (const int threads : kThreadCounts) {
          if (threads > 1 && axis != 1) continue;
          std::vector<T> xyz(3 * kCount, T(0.5));
          at(xyz, 3 * row + axis) = c.value;
          xyz.back() = c.value;  // the first bad row counts, not any other
          Coords coords(kCount);
          const cpu::QuantizeResult result =
              cpu::quantize(xyz.data(), nullptr, kCount, unit, kNoOrigin, coords.data(), threads);
          CHECK_EQ(result.bad_row, c.is_bad ? row : cpu::kNoBadRow);
          CHECK_EQ(result.is_finite, c.is_finite);
        }
      }
    }
  }
}

TEST(quantize_names_the_first_row_that_it_refuses) {
  check_refusals<float>();
  check_refusals<double>();
}

TEST(quantize_refuses_batches_out_of_range_and_takes_empty_clouds) {
  const double unit[3] = {1, 1, 1};
  const std::vector<float> xyz(9, 0.5f);
  for (const int32_t bad_batch : {-1, 1024, INT32_MAX, INT32_MIN}) {
    const int32_t batch[3] = {0, kBatchMax, bad_batch};
    Coords coords(3);
    const cpu::QuantizeResult result =
        cpu::quantize(xyz.data(), batch, 3, unit, kNoOrigin, coords.data(), 1);
    CHECK_EQ(result.bad_row, int64_t{2});
    CHECK(result.is_finite);
    CHECK_EQ(coords[1], (Coord{kBatchMax, 0, 0, 0}));
  }
  CHECK_EQ(cpu::quantize<float>(nullptr, nullptr, 0, unit, kNoOrigin, nullptr, 3).bad_row,
           cpu::kNoBadRow);
}

TEST(the_first_coordinate_out_of_range_is_found) {
  Coords coords(10000, Coord{kBatchMax, kAxisMin, kAxisMax, 0});
  const auto first = [&](int threads) {
    return cpu::first_out_of_range(coords.data(), size_of(coords), threads);
  };
  for (const int threads : kThreadCounts) CHECK_EQ(first(threads), cpu::kNoBadRow);
  for (const int64_t bad : {9999, 5000, 4999, 0}) {
    at(coords, bad).y = kAxisMax + 1;
    for (const int threads : kThreadCounts) CHECK_EQ(first(threads), bad);
  }
  CHECK_EQ(cpu::first_out_of_range(nullptr, 0, 2), cpu::kNoBadRow);
}

TEST(morton_order_is_recognised) {
  const Coords sorted = morton_sorted(without_duplicates(many_duplicates()));
  const auto is_ordered = [](const Coords& coords, int threads) {
    return cpu::is_morton_ordered(coords.data(), size_of(coords), threads);
  };
  for (const int threads : kThreadCounts) {
    CHECK(is_ordered({}, threads));
    CHECK(is_ordered(sorted, threads));
    for (const NamedCloud& cloud : small_clouds()) {
      CHECK(is_ordered(morton_sorted(cloud.coords), threads));
    }
    const int64_t half = size_of(sorted) / 2;  // where the second of two threads begins
    for (const int64_t row : {int64_t{1}, half - 1, half, half + 1, size_of(sorted) - 1}) {
      Coords swapped(sorted);
      std::swap(at(swapped, row - 1), at(swapped, row));
      CHECK(!is_ordered(swapped, threads));
      Coords repeated(sorted);
      at(repeated, row) = at(repeated, row - 1);
      CHECK(!is_ordered(repeated, threads));
    }
  }
}

void check_unique(const Coords& coords) {
  std::map<Key, std::vector<int32_t>> groups;
  for (size_t i = 0; i < coords.size(); ++i) {
    groups[key_of(coords[i])].push_back(static_cast<int32_t>(i));
  }
  Coords voxels;
  for (const auto& group : groups) voxels.push_back(coord_of(group.first));
  std::vector<int32_t> order;
  std::vector<int32_t> group_ptr{0};
  for (const Coord& voxel : morton_sorted(voxels)) {
    const std::vector<int32_t>& rows = groups.at(key_of(voxel));
    order.insert(order.end(), rows.begin(), rows.end());
    group_ptr.push_back(static_cast<int32_t>(order.size()));
  }
  if (coords.empty()) group_ptr = {0};
  for (const int threads : kThreadCounts) {
    const cpu::UniqueCoords unique = cpu::unique_coords(coords.data(), size_of(coords), threads);
    CHECK_EQ(unique.order, order);
    CHECK_EQ(unique.group_ptr, group_ptr);
  }
}

TEST(unique_coords_are_grouped_in_morton_order) {
  for (const NamedCloud& cloud : small_clouds()) {
    const check::Note note(cloud.name);
    check_unique(cloud.coords);
  }
  check_unique(many_duplicates());
  check_unique(Coords(10000, Coord{1, -2, 3, -4}));
  check_unique({Coord{0, -1, -1, -1}, Coord{0, 0, 0, 0}, Coord{0, -1, -1, -1}});
  Coords far =
      many_duplicates();  // with the range's corners a key and a row need more than 64 bits
  const Coords corners = range_corners();
  far.insert(far.end(), corners.begin(), corners.end());
  far.insert(far.end(), corners.rbegin(), corners.rend());
  for (int32_t batch = 1; batch <= 512; batch *= 2) far.push_back(Coord{batch, 0, 0, kAxisMin});
  check_unique(far);
}

TEST(cells_of_the_pyramid_hold_their_children) {
  std::vector<NamedCloud> clouds = small_clouds();
  clouds.push_back({"large", without_duplicates(many_duplicates())});
  for (const NamedCloud& cloud : clouds) {
    const check::Note note(cloud.name);
    const Coords coords = morton_sorted(cloud.coords);
    std::vector<int32_t> child_ptr;
    std::vector<uint8_t> child_mask;
    Coords cells;
    for (size_t i = 0; i < coords.size(); ++i) {
      const auto half = [](int32_t v) { return static_cast<int32_t>(std::floor(v / 2.0)); };
      const Coord& c = coords[i];
      const Coord cell{c.batch, half(c.x), half(c.y), half(c.z)};
      if (cells.empty() || !(cells.back() == cell)) {
        cells.push_back(cell);
        child_ptr.push_back(static_cast<int32_t>(i));
        child_mask.push_back(0);
      }
      const int octant = 4 * (c.x - 2 * cell.x) + 2 * (c.y - 2 * cell.y) + (c.z - 2 * cell.z);
      child_mask.back() = static_cast<uint8_t>(child_mask.back() | 1 << octant);
    }
    child_ptr.push_back(static_cast<int32_t>(coords.size()));
    CHECK_EQ(cells.size(), without_duplicates(cells).size());
    CHECK(cpu::is_morton_ordered(cells.data(), size_of(cells), 1));
    for (const int threads : kThreadCounts) {
      const cpu::Coarsened coarsened = cpu::coarsen(coords.data(), size_of(coords), threads);
      CHECK_EQ(coarsened.child_ptr, child_ptr);
      CHECK_EQ(coarsened.child_mask, child_mask);
    }
  }
}

/// What a convolution may write: proposals, of which those in range and inside the shape count.
class Proposals {
 public:
  explicit Proposals(const int64_t* shape) : shape_(shape) {}

  void add(int32_t batch, const int64_t site[3]) {
    bool is_inside = true;
    bool fits = true;
    for (int axis = 0; axis < 3; ++axis) {
      if (shape_) is_inside = is_inside && site[axis] >= 0 && site[axis] < shape_[axis];
      fits = fits && site[axis] >= -131072 && site[axis] <= 131071;
    }
    if (!is_inside) return;
    all_in_range_ = all_in_range_ && fits;
    const auto narrow = [](int64_t v) { return static_cast<int32_t>(v); };
    if (fits) sites_.insert(Key{batch, narrow(site[0]), narrow(site[1]), narrow(site[2])});
  }

  void expect(const cpu::Sites& sites) const {
    Coords expected;
    for (const Key& key : sites_) expected.push_back(coord_of(key));
    CHECK_EQ(sites.coords, morton_sorted(expected));
    CHECK_EQ(sites.all_in_range, all_in_range_);
  }

 private:
  const int64_t* shape_;
  std::set<Key> sites_;
  bool all_in_range_ = true;
};

template <class Visit>
void for_each_tap(const ConvGeometry& g, const Visit& visit) {
  for (int64_t x = 0; x < g.kernel_size[0]; ++x) {
    for (int64_t y = 0; y < g.kernel_size[1]; ++y) {
      for (int64_t z = 0; z < g.kernel_size[2]; ++z) {
        const int64_t tap[3] = {x, y, z};
        visit(tap);
      }
    }
  }
}

void check_sites(const Coords& coords, const ConvGeometry& g, const int64_t* shape) {
  Proposals full(shape);
  Proposals cell(shape);
  Proposals fine(shape);
  for (const Coord& c : coords) {
    const int64_t site[3] = {c.x, c.y, c.z};
    int64_t to[3];
    for (int i = 0; i < 3; ++i) {
      to[i] = static_cast<int64_t>(std::floor(static_cast<double>(site[i]) / g.stride[i]));
    }
    cell.add(c.batch, to);
    for_each_tap(g, [&](const int64_t tap[3]) {
      bool divides = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t offset = site[i] + g.padding[i] - g.dilation[i] * tap[i];
        divides = divides && offset % g.stride[i] == 0;
        to[i] = offset / g.stride[i];
      }
      if (divides) full.add(c.batch, to);
      for (int i = 0; i < 3; ++i)
        to[i] = g.stride[i] * site[i] + g.dilation[i] * tap[i] - g.padding[i];
      fine.add(c.batch, to);
    });
  }
  for (const int threads : {1, 3}) {
    const int64_t count = size_of(coords);
    full.expect(cpu::coarse_sites(coords.data(), count, g, cpu::StrideRule::kFull, shape, threads));
    cell.expect(cpu::coarse_sites(coords.data(), count, g, cpu::StrideRule::kCell, shape, threads));
    fine.expect(cpu::fine_sites(coords.data(), count, g, shape, threads));
  }
}

TEST(output_sites_are_those_that_the_relation_reaches) {
  const ConvGeometry geometries[] = {cubic(1, 1, 1, 0),
                                     cubic(2, 2, 1, 0),
                                     cubic(3, 2, 1, 1),
                                     cubic(3, 1, 1, 1),
                                     cubic(2, 3, 2, 1),
                                     cubic(3, 2, 2, 0),
                                     ConvGeometry{{3, 1, 2}, {1, 2, 4}, {2, 1, 5}, {2, 0, 3}}};
  const int64_t shape[3] = {7, 5, 12};
  for (const NamedCloud& cloud : small_clouds()) {
    for (const ConvGeometry& g : geometries) {
      const check::Note note(cloud.name, ", ", g);
      check_sites(cloud.coords, g, nullptr);
      check_sites(cloud.coords, g, shape);
    }
  }
}

TEST(proposals_beyond_the_limit_of_memory_are_squeezed) {
  constexpr int32_t kSide = 33;  // 5^3 taps on 33^3 voxels: more than the 2^22 kept at once
  const Coords dense = dense_cube(kSide);
  const cpu::Sites sites =
      cpu::fine_sites(dense.data(), size_of(dense), cubic(5, 1, 1, 2), nullptr, 2);
  CHECK(sites.all_in_range);
  CHECK_EQ(sites.coords, morton_sorted(dense_cube(kSide + 4, -2)));
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
