// SPDX-License-Identifier: MIT
// The weight gradient for tensor cores, run by a block of the CPU: against sums in double for
// ragged channels, taps of many and of no pairs, all tile shapes and any order of the warps.
#include "kernels/pair_gemm.h"

#include <vector>

#include "warp_block.h"
#include "check.h"
#include "convolutions.h"
#include "refusal.h"
#include "tensor_cores.h"

namespace tsl::test {
namespace {

/// Pairs between rows, a gradient, and what is wanted.
template <class S>
struct GradProblem {
  Map map;
  int cin, cout;
  std::vector<S> feats, grad_out;

  GradProblem(const Map& the_map, int in_channels, int out_channels, uint64_t seed)
      : map(the_map), cin(in_channels), cout(out_channels) {
    Random random(seed);
    feats = random_values<S>(random, map.num_in * cin);
    grad_out = random_values<S>(random, map.num_out * cout);
  }

  Sums exact_grad() const {
    Sums grad(int64_t{map.kernel_volume} * cin * cout);
    for (const Pair& pair : map.pairs) {
      for (int64_t in = 0; in < cin; ++in) {
        for (int64_t out = 0; out < cout; ++out) {
          grad.add((pair.tap * int64_t{cin} + in) * cout + out,
                   exact(at(feats, pair.in * int64_t{cin} + in)),
                   exact(at(grad_out, pair.out * int64_t{cout} + out)));
        }
      }
    }
    return grad;
  }
};

/// With `room` for more pairs behind those that there are.
template <class Shape, class S>
std::vector<float> by_tiles(const GradProblem<S>& p, bool backwards = false, int64_t room = 0) {
  OwnedPairs lists = pairs_of(p.map.pairs, p.map.num_out, p.map.kernel_volume, 64);
  const int64_t num_pairs = size_of(p.map.pairs) + room;
  lists.in_index.resize(static_cast<size_t>(num_pairs), INT32_MAX);
  lists.out_index.resize(static_cast<size_t>(num_pairs), INT32_MAX);
  const PairParts pair_parts{lists.tap_ptr.data(), p.map.kernel_volume};
  const int64_t parts = PairParts::most(num_pairs, p.map.kernel_volume);
  const int in_tiles = Shape::in_tiles(p.cin);
  const int out_tiles = Shape::out_tiles(p.cout);
  const int in_width = in_tiles * Shape::kIn;
  const int out_width = out_tiles * Shape::kOut;
  std::vector<float> partial(static_cast<size_t>(parts * in_width * out_width), std::nanf(""));
  Aligned<S> feats(filled_up(p.feats, p.cin, whole_words<S>(p.cin)));
  Aligned<S> grad_out(filled_up(p.grad_out, p.cout, whole_words<S>(p.cout)));
  const PairGemm<S> gemm{pair_parts,
                         lists.in_index.data(),
                         lists.out_index.data(),
                         num_pairs,
                         feats.data(),
                         p.map.num_in,
                         grad_out.data(),
                         p.map.num_out,
                         whole_words<S>(p.cin),
                         whole_words<S>(p.cout),
                         partial.data(),
                         in_width,
                         out_width};
  for (int64_t part = 0; part < parts; ++part) {
    for (int in = 0; in < in_tiles; ++in) {
      for (int out = 0; out < out_tiles; ++out) {
        WarpBlock block(Shape::kWarps, backwards);
        PairGemmTile<S, Shape, WarpBlock>(block, gemm, part, in, out).run();
      }
    }
  }
  std::vector<float> grad(static_cast<size_t>(p.map.kernel_volume * p.cin * p.cout), 777.0f);
  const AddParts add{pair_parts, partial.data(), in_width, out_width, p.cin, p.cout, grad.data()};
  for (int64_t i = 0; i < size_of(grad); ++i) add(i);
  return grad;
}

template <class S>
void check_problem(const Map& map, int cin, int cout) {
  const check::Note note("cin ", cin, ", cout ", cout);
  const GradProblem<S> problem(map, cin, cout, static_cast<uint64_t>(100 * cin + cout));
  const Sums expected = problem.exact_grad();
  const auto check_shape = [&](auto tag) {
    using Shape = decltype(tag);
    const check::Note shape("tile of ", Shape::kIn, " and ", Shape::kOut, " channels");
    const std::vector<float> grad = by_tiles<Shape>(problem);
    expected.expect<float>(grad);
    CHECK(same_bits(by_tiles<Shape>(problem, true), grad));
    CHECK(same_bits(by_tiles<Shape>(problem, false, 2 * kPartPairs + 1), grad));
  };
  check_shape(PairTileShape<1, 1>{});
  check_shape(PairTileShape<2, 2>{});
  check_shape(PairTileShape<3, 3>{});
}

TEST(ragged_channels) {
  const Map map = submanifold_map(lidar_surface(91, 8, 40, 3.0), 3);
  for_half_types([&](auto tag) {
    using S = decltype(tag);
    for (const int channels : {1, 4, 8, 31, 33, 64, 96, 100}) {
      check_problem<S>(map, channels, 24);
      check_problem<S>(map, 24, channels);
    }
  });
}

TEST(maps_of_all_kinds) {
  const Coords surface = lidar_surface(92, 12, 60, 3.0, 2);
  const Map strided = strided_map(surface, cubic(3, 2, 1, 1));
  for (const Map& map :
       {submanifold_map(dense_cube(5), 5), submanifold_map(isolated_voxels(70), 3),
        submanifold_map(surface, 1), strided, transposed_map(strided), submanifold_map({}, 3)}) {
    const check::Note note(map.num_in, " to ", map.num_out, " rows, ", map.kernel_volume, " taps");
    check_problem<BFloat16>(map, 40, 33);
  }
}

/// A map of one output row and taps of so many pairs.
Map taps_of(const std::vector<int>& counts) {
  Map map{{}, 50, 40, static_cast<int>(counts.size()), -1};
  Random random(93);
  for (int tap = 0; tap < map.kernel_volume; ++tap) {
    for (int i = 0; i < at(counts, tap); ++i) {
      map.pairs.push_back(Pair{tap, static_cast<int32_t>(random.integer(0, 49)),
                               static_cast<int32_t>(random.integer(0, 39))});
    }
  }
  return map;
}

TEST(parts_begin_and_end_anywhere) {
  check_problem<Float16>(taps_of({0, 1, 31, 32, 33, 0, 0, 2047, 2048, 2049, 0}), 16, 8);
  check_problem<Float16>(taps_of({6000, 0, 4096}), 8, 16);
}

TEST(rows_that_do_not_exist_are_refused) {
  for (const int32_t row : {-1, 50}) {
    GradProblem<BFloat16> problem(taps_of({40}), 8, 8, 94);
    problem.map.pairs[7].in = row;
    const auto run = [&] { by_tiles<PairTileShape<1, 1>>(problem); };
    CHECK(says(refusal(run), "must be rows that exist"));
  }
}

TEST(taps_that_descend_are_refused) {
  const std::vector<int64_t> tap_ptr{0, 40, 8, 40};
  const AddParts add{{tap_ptr.data(), 3}, nullptr, 0, 0, 1, 1, nullptr};
  CHECK(says(refusal([&] { add(1); }), "tap_ptr must ascend"));
}

TEST(every_pair_belongs_to_one_part) {
  const std::vector<int> counts{0, 5000, 2048, 0, 1, 4097, 0};
  std::vector<int64_t> tap_ptr{0};
  for (const int count : counts) tap_ptr.push_back(tap_ptr.back() + count);
  const PairParts parts{tap_ptr.data(), static_cast<int>(counts.size())};
  int64_t next = 0;
  for (int64_t part = 0; part < PairParts::most(tap_ptr.back(), parts.kernel_volume); ++part) {
    const PairParts::Range pairs = parts.pairs_of(part);
    if (pairs.begin == pairs.end) continue;
    CHECK_EQ(pairs.begin, next);
    CHECK(pairs.end - pairs.begin <= kPartPairs);
    next = pairs.end;
  }
  CHECK_EQ(next, tap_ptr.back());
}

}  // namespace
}  // namespace tsl::test

int main() { return check::run_tests(); }
