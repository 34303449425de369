// SPDX-License-Identifier: MIT
// Seeded clouds of unique voxels for the tests, and the plainest containers to look them up in.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <ostream>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "core/coord.h"

namespace tsl {

inline std::ostream& operator<<(std::ostream& stream, const Coord& c) {
  return stream << "(" << c.batch << ", " << c.x << ", " << c.y << ", " << c.z << ")";
}

}  // namespace tsl

namespace tsl::test {

using Coords = std::vector<Coord>;

template <class Container, class Index>
auto& at(Container& container, Index index) {
  return container[static_cast<size_t>(index)];
}

template <class Container>
int64_t size_of(const Container& container) {
  return static_cast<int64_t>(container.size());
}

/// The same numbers on every machine: the standard fixes the engine, not its distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  uint64_t bits() { return engine_(); }
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  int32_t axis(int64_t low, int64_t high) { return static_cast<int32_t>(integer(low, high)); }
  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[engine_() % i]);
  }

 private:
  std::mt19937_64 engine_;
};

using Key = std::array<int32_t, 4>;

inline Key key_of(const Coord& c) { return Key{c.batch, c.x, c.y, c.z}; }
inline Coord coord_of(const Key& k) { return Coord{k[0], k[1], k[2], k[3]}; }

/// Row of each coordinate; of equal coordinates the first.
inline std::map<Key, int32_t> rows_by_coord(const Coords& coords) {
  std::map<Key, int32_t> rows;
  for (size_t i = 0; i < coords.size(); ++i)
    rows.emplace(key_of(coords[i]), static_cast<int32_t>(i));
  return rows;
}

/// Morton order without Morton keys: the axis with the highest differing bit decides, x before y
/// before z among equals.
inline bool morton_less(const Coord& a, const Coord& b) {
  if (a.batch != b.batch) return a.batch < b.batch;
  const int32_t from[3] = {a.x, a.y, a.z};
  const int32_t to[3] = {b.x, b.y, b.z};
  int decisive = 0;
  int64_t largest = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t difference = (int64_t{from[axis]} + kAxisBias) ^ (int64_t{to[axis]} + kAxisBias);
    if (largest < difference && largest < (largest ^ difference)) {
      largest = difference;
      decisive = axis;
    }
  }
  return from[decisive] < to[decisive];
}

inline Coords morton_sorted(Coords coords) {
  std::sort(coords.begin(), coords.end(), morton_less);
  return coords;
}

inline Coords without_duplicates(const Coords& coords) {
  std::set<Key> seen;
  Coords unique;
  for (const Coord& c : coords) {
    if (seen.insert(key_of(c)).second) unique.push_back(c);
  }
  return unique;
}

inline Coords dense_cube(int32_t side, int32_t origin = 0, int32_t batch = 0) {
  Coords coords;
  for (int32_t x = 0; x < side; ++x) {
    for (int32_t y = 0; y < side; ++y) {
      for (int32_t z = 0; z < side; ++z) {
        coords.push_back(Coord{batch, origin + x, origin + y, origin + z});
      }
    }
  }
  return coords;
}

/// No two within reach of a kernel.
inline Coords isolated_voxels(int32_t count) {
  Coords coords;
  for (int32_t i = 0; i < count; ++i) {
    coords.push_back(Coord{i % 3, 40 * (i % 7) - 100, 40 * (i / 7 % 7) - 100, 40 * (i / 49) - 100});
  }
  return coords;
}

inline Coords random_box(uint64_t seed, int64_t count, int32_t half_side, int32_t batches) {
  Random random(seed);
  const auto axis = [&] { return random.axis(-half_side, half_side - 1); };
  Coords coords;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t batch = random.axis(0, batches - 1);
    const int32_t x = axis();
    const int32_t y = axis();
    coords.push_back(Coord{batch, x, y, axis()});
  }
  return without_duplicates(coords);
}

/// Rays of a turning scanner, in the order in which it sees them, into ground, walls and poles.
inline Coords lidar_surface(uint64_t seed, int beams, int azimuths, double voxel_size_m,
                            int32_t batches = 1) {
  constexpr double kHeightM = 1.8;
  Random random(seed);
  Coords coords;
  for (int32_t batch = 0; batch < batches; ++batch) {
    const double wall_m = random.real(6.0, 20.0);
    const double pole_phase = random.real(0.0, 1.0);
    for (int azimuth = 0; azimuth < azimuths; ++azimuth) {
      const double angle_rad = 2.0 * 3.14159265358979 * azimuth / azimuths;
      const bool hits_pole = std::fmod(angle_rad + pole_phase, 0.7) < 0.03;
      const double wall_here_m = wall_m / std::max(std::fabs(std::sin(angle_rad)), 0.15);
      for (int beam = 0; beam < beams; ++beam) {
        const double slope = -0.4 + 0.45 * beam / beams;
        const double ground_m = slope < 0 ? -kHeightM / slope : 1e9;
        const double range_m =
            std::min({ground_m, wall_here_m, hits_pole ? 7.0 : 60.0}) + random.real(-0.03, 0.03);
        const auto cell = [&](double metres) {
          return static_cast<int32_t>(std::floor(metres / voxel_size_m));
        };
        coords.push_back(Coord{batch, cell(range_m * std::cos(angle_rad)),
                               cell(range_m * std::sin(angle_rad)), cell(range_m * slope)});
      }
    }
  }
  return without_duplicates(coords);
}

/// Small clusters at the eight corners of the representable range, in the first and the last batch;
/// the very last coordinate's packed key is the hash table's mark for an empty slot.
inline Coords range_corners() {
  Coords coords;
  for (const int32_t batch : {0, kBatchMax}) {
    for (int corner = 0; corner < 8; ++corner) {
      for (int cell = 0; cell < 8; ++cell) {
        const auto axis = [&](int bit) {
          const int32_t inwards = cell >> bit & 1;
          return corner >> bit & 1 ? kAxisMax - inwards : kAxisMin + inwards;
        };
        if (cell != 5) coords.push_back(Coord{batch, axis(2), axis(1), axis(0)});
      }
    }
  }
  return coords;
}

struct NamedCloud {
  const char* name;
  Coords coords;
};

/// One of each kind, small.
inline std::vector<NamedCloud> small_clouds() {
  Coords shuffled = lidar_surface(3, 16, 120, 1.2, 2);
  Random(4).shuffle(shuffled);
  return {{"empty", {}},
          {"one voxel", {Coord{7, -3, 0, 12}}},
          {"the last coordinate", {Coord{kBatchMax, kAxisMax, kAxisMax, kAxisMax}}},
          {"dense cube", dense_cube(16, -8)},
          {"isolated voxels", isolated_voxels(100)},
          {"random box", random_box(5, 500, 6, 2)},
          {"range corners", range_corners()},
          {"shuffled surface", shuffled}};
}

}  // namespace tsl::test
