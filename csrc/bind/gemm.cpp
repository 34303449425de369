// SPDX-License-Identifier: MIT
// Kernels for tensor cores. They are there on CUDA only; of indices shapes and types are checked
// here, and entries by the kernels.
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "bind/device.h"
#include "bind/dispatch.h"
#include "bind/index_checks.h"
#include "bind/module.h"
#include "cuda/implicit_gemm.h"
#include "cuda/pair_gemm.h"

namespace tsl::bind {
namespace {

constexpr auto kCuda = dlpack::kCuda;

using Halves = Types<BFloat16, Float16>;
/// float32 is rounded to TF32.
using OnTensorCores = Types<float, BFloat16, Float16>;

/// A call on the GPU, which this build must have.
template <class Run>
void on_cuda(const TensorView& view, const char* argument, const py::function& scratch,
             const Run& run) {
  TSL_CHECK(device_of(view, argument) == kCuda, ValueError, argument,
            " must be on CUDA, got the CPU. Use sparse_conv, which computes on both.");
  if constexpr (kHasCuda) CudaCall(view, scratch)(run);
}

void check_aligned(const TensorView& view, const char* argument) {
  const auto behind = reinterpret_cast<uintptr_t>(view.data) % sizeof(Words4);
  TSL_CHECK(behind == 0, ValueError, argument, " must begin at a multiple of ", sizeof(Words4),
            " bytes, got one ", behind, " bytes behind. Call .clone() on it.");
}

/// Rows that are copied 16 bytes at a time.
void check_words(const TensorView& view, const char* argument) {
  const int word = view.dtype == DType::kFloat32 ? Operand<float>::kWord : Operand<Float16>::kWord;
  TSL_CHECK(view.shape[1] % word == 0, ValueError, argument, " must have a multiple of ", word,
            " channels, got ", view.shape[1], ". Fill up with zeros.");
  check_aligned(view, argument);
}

void check_taps(int64_t kernel_volume, const char* argument) {
  TSL_CHECK(kernel_volume > 0, ValueError, argument, " must have at least one tap, got ",
            kernel_volume, ". Pass that of the map.");
}

template <class S>
void check_packed(const TensorView& packed, int64_t kernel_volume, int64_t in_channels,
                  int64_t out_channels, const char* argument) {
  const FragmentLayout layout =
      FragmentLayout::of<S>(static_cast<int>(in_channels), static_cast<int>(out_channels));
  packed.expect(argument, DType::kInt32,
                {kernel_volume, layout.inputs, layout.outputs, kWarpLanes, 4}, kCuda);
}

void pack_weight(const TensorView& weight, bool transposed, bool mirrored, const TensorView& packed,
                 const py::function& scratch) {
  weight.expect("pack_weight: weight", weight.dtype, {-1, -1, -1}, kCuda);
  const int64_t volume = weight.shape[0];
  const int64_t in_channels = weight.shape[transposed ? 2 : 1];
  const int64_t out_channels = weight.shape[transposed ? 1 : 2];
  on_cuda(weight, "pack_weight: weight", scratch, [&](const cuda::Call& call) {
    dispatch<OnTensorCores>(weight.dtype, "pack_weight: weight", [&](auto tag) {
      using S = decltype(tag);
      check_packed<S>(packed, volume, in_channels, out_channels, "pack_weight: packed");
      cuda::pack_weight(
          call,
          PackWeight<S>{weight.as<S>(), static_cast<int>(volume), static_cast<int>(in_channels),
                        static_cast<int>(out_channels), transposed, mirrored, packed.as<Words4>()});
    });
  });
}

void order_rows(const TensorView& mask, const TensorView& tap_ptr, int64_t block_rows,
                const TensorView& order, const py::function& scratch) {
  tap_ptr.expect("order_rows: tap_ptr", DType::kInt64, {-1}, kCuda);
  const int volume = static_cast<int>(tap_ptr.shape[0] - 1);
  check_taps(volume, "order_rows: tap_ptr");
  mask.expect("order_rows: mask", DType::kInt32, {-1, mask_words(volume)}, kCuda);
  const int64_t count = mask.shape[0];
  order.expect("order_rows: order", DType::kInt32, {count}, kCuda);
  TSL_CHECK(block_rows > 0, ValueError, "order_rows: block_rows must be positive, got ", block_rows,
            ". Give the number of rows that may change places.");
  const NeighborTable table{mask.as<uint32_t>(), nullptr, nullptr, mask_words(volume)};
  on_cuda(mask, "order_rows: mask", scratch, [&](const cuda::Call& call) {
    cuda::order_rows(call, table, tap_ptr.as<int64_t>(), volume, count, block_rows,
                     order.as<int32_t>());
  });
}

/// What is summed: of each part features, weight and the number of its table, or kNoTable; and
/// mask, ptr and rows of each table.
struct SumArrays {
  const std::vector<TensorView>& feats;
  const std::vector<TensorView>& packed;
  const std::vector<int>& part_tables;
  const std::vector<std::array<TensorView, 3>>& tables;
};

void check_parts(const SumArrays& sum, size_t num_biases) {
  const size_t parts = sum.feats.size();
  TSL_CHECK(parts >= 1 && parts <= kMaxParts && num_biases <= kMaxBiases, ValueError,
            "implicit_gemm: feats must have 1 to ", kMaxParts, " parts and biases at most ",
            kMaxBiases, ", got ", parts, " and ", num_biases, ". Concatenate some of them.");
  TSL_CHECK(sum.packed.size() == parts && sum.part_tables.size() == parts, ValueError,
            "implicit_gemm: packed and part_tables must have one entry for each of ", parts,
            " parts, got ", sum.packed.size(), " and ", sum.part_tables.size(), ". Pass all.");
  std::vector<bool> is_read(sum.tables.size());
  for (const int table : sum.part_tables) {
    const bool is_table = table >= 0 && table < static_cast<int>(is_read.size());
    TSL_CHECK(is_table || table == kNoTable, ValueError, "implicit_gemm: part_tables must be ",
              kNoTable, " to ", static_cast<int>(is_read.size()) - 1, ", got ", table,
              ". Number the tables from 0.");
    if (is_table) is_read[static_cast<size_t>(table)] = true;
  }
  for (size_t table = 0; table < is_read.size(); ++table) {
    TSL_CHECK(is_read[table], ValueError, "implicit_gemm: tables must each be read by a part, got ",
              "none for number ", table, ". Leave it out.");
  }
}

/// Shapes of the parts, and their views; what is not of a part is left empty.
template <class S>
ImplicitGemm<S> described_sum(const SumArrays& sum, int64_t num_out, int64_t out_channels) {
  const char* const function = "implicit_gemm";
  ImplicitGemm<S> gemm{};
  gemm.tables[0] = empty_table();
  gemm.num_tables = sum.tables.empty() ? 1 : static_cast<int>(sum.tables.size());
  gemm.num_parts = static_cast<int>(sum.feats.size());
  gemm.num_out = num_out;
  for (size_t p = 0; p < sum.feats.size(); ++p) {
    const TensorView& feats = sum.feats[p];
    const TensorView& packed = sum.packed[p];
    const int number = sum.part_tables[p];
    const int64_t volume = number == kNoTable ? 1 : packed.shape[0];
    check_taps(volume, "implicit_gemm: packed");
    feats.expect("implicit_gemm: feats", sum.feats[0].dtype,
                 {number == kNoTable ? num_out : -1, -1}, kCuda);
    check_words(feats, "implicit_gemm: feats");
    check_packed<S>(packed, volume, feats.shape[1], out_channels, "implicit_gemm: packed");
    gemm.parts[p] = {number, static_cast<int>(feats.shape[1]), feats.as<S>(), packed.as<Words4>()};
    if (number == kNoTable) continue;
    const auto& [mask, ptr, rows] = sum.tables[static_cast<size_t>(number)];
    mask.expect("implicit_gemm: mask", DType::kInt32, {num_out, -1}, kCuda);
    GemmTable& table = gemm.tables[number];
    const bool is_new = table.kernel_volume == 0;
    TSL_CHECK(is_new || (table.kernel_volume == volume && table.num_in == feats.shape[0]),
              ValueError, "implicit_gemm: feats must be ", table.num_in, " rows and packed ",
              table.kernel_volume, " taps, as of the other parts of table ", number, ", got ",
              feats.shape[0], " and ", volume, ". Pass features side by side.");
    table = {described_table({mask, ptr, rows}, static_cast<int>(volume), function, kCuda),
             rows.shape[0], static_cast<int>(volume), feats.shape[0]};
  }
  return gemm;
}

void implicit_gemm(const std::vector<TensorView>& feats, const std::vector<TensorView>& packed,
                   const std::vector<int>& part_tables,
                   const std::vector<std::array<TensorView, 3>>& tables,
                   const std::vector<TensorView>& biases, const std::optional<TensorView>& residual,
                   const TensorView& order, bool relu, int tile, const TensorView& out,
                   const py::function& scratch) {
  TSL_CHECK(tile >= 0 && tile < kTileShapes, ValueError, "implicit_gemm: tile must be 0 to ",
            kTileShapes - 1, ", got ", tile, ". See gemm_tiles().");
  const SumArrays sum{feats, packed, part_tables, tables};
  check_parts(sum, biases.size());
  const DType dtype = feats[0].dtype;
  out.expect("implicit_gemm: out", dtype, {-1, -1}, kCuda);
  const int64_t num_out = out.shape[0];
  const int64_t out_channels = out.shape[1];
  for (const TensorView& bias : biases) {
    bias.expect("implicit_gemm: biases", dtype, {out_channels}, kCuda);
  }
  if (residual) {
    residual->expect("implicit_gemm: residual", dtype, {num_out, out_channels}, kCuda);
    check_aligned(*residual, "implicit_gemm: residual");
  }
  check_aligned(out, "implicit_gemm: out");
  order.expect("implicit_gemm: order", DType::kInt32, {num_out}, kCuda);
  on_cuda(feats[0], "implicit_gemm: feats", scratch, [&](const cuda::Call& call) {
    dispatch<OnTensorCores>(dtype, "implicit_gemm: feats", [&](auto tag) {
      using S = decltype(tag);
      ImplicitGemm<S> gemm = described_sum<S>(sum, num_out, out_channels);
      gemm.order = order.as<int32_t>();
      for (size_t i = 0; i < biases.size(); ++i) gemm.out.biases[i] = biases[i].as<S>();
      gemm.out.num_biases = static_cast<int>(biases.size());
      gemm.out.residual = residual ? residual->as<S>() : nullptr;
      gemm.out.out = out.as<S>();
      gemm.out.channels = static_cast<int>(out_channels);
      gemm.out.relu = relu;
      cuda::implicit_gemm(call, gemm, tile);
    });
  });
}

void pair_gemm(const TensorView& feats, const TensorView& grad_out, const TensorView& in_index,
               const TensorView& out_index, const TensorView& tap_ptr,
               const TensorView& grad_weight, const py::function& scratch) {
  const DType dtype = feats.dtype;
  feats.expect("pair_gemm: feats", dtype, {-1, -1}, kCuda);
  grad_out.expect("pair_gemm: grad_out", dtype, {-1, -1}, kCuda);
  check_words(feats, "pair_gemm: feats");
  check_words(grad_out, "pair_gemm: grad_out");
  const int64_t pairs = in_index.shape[0];
  in_index.expect("pair_gemm: in_index", DType::kInt32, {-1}, kCuda);
  out_index.expect("pair_gemm: out_index", DType::kInt32, {pairs}, kCuda);
  grad_weight.expect("pair_gemm: grad_weight", DType::kFloat32, {-1, -1, -1}, kCuda);
  const int64_t volume = grad_weight.shape[0];
  check_taps(volume, "pair_gemm: grad_weight");
  tap_ptr.expect("pair_gemm: tap_ptr", DType::kInt64, {volume + 1}, kCuda);
  TSL_CHECK(grad_weight.shape[1] <= feats.shape[1] && grad_weight.shape[2] <= grad_out.shape[1],
            ValueError, "pair_gemm: grad_weight must have no more channels than feats (",
            feats.shape[1], ") and grad_out (", grad_out.shape[1], "), got ", grad_weight.shape[1],
            " and ", grad_weight.shape[2], ". Fill up with zeros.");
  on_cuda(feats, "pair_gemm: feats", scratch, [&](const cuda::Call& call) {
    dispatch<Halves>(dtype, "pair_gemm: feats", [&](auto tag) {
      using S = decltype(tag);
      const PairGemm<S> gemm{{tap_ptr.as<int64_t>(), static_cast<int>(volume)},
                             in_index.as<int32_t>(),
                             out_index.as<int32_t>(),
                             pairs,
                             feats.as<S>(),
                             feats.shape[0],
                             grad_out.as<S>(),
                             grad_out.shape[0],
                             static_cast<int>(feats.shape[1]),
                             static_cast<int>(grad_out.shape[1]),
                             nullptr,
                             0,
                             0};
      cuda::weight_grad(call, gemm, static_cast<int>(grad_weight.shape[1]),
                        static_cast<int>(grad_weight.shape[2]), grad_weight.as<float>());
    });
  });
}

/// Rows and channels of each.
template <class... Shapes>
std::vector<std::pair<int, int>> sizes_of(std::tuple<Shapes...>) {
  return {{Shapes::kRows, Shapes::kChannels}...};
}

}  // namespace

void register_gemm(py::module_& module) {
  module.def("pack_weight", &pack_weight, py::arg("weight"), py::arg("transposed"),
             py::arg("mirrored"), py::arg("packed"), py::arg("scratch"));
  module.def("order_rows", &order_rows, py::arg("mask"), py::arg("tap_ptr"), py::arg("block_rows"),
             py::arg("order"), py::arg("scratch"));
  module.def("implicit_gemm", &implicit_gemm, py::arg("feats"), py::arg("packed"),
             py::arg("part_tables"), py::arg("tables"), py::arg("biases"), py::arg("residual"),
             py::arg("order"), py::arg("relu"), py::arg("tile"), py::arg("out"),
             py::arg("scratch"));
  module.def("gemm_tiles", [] { return sizes_of(TileShapes()); });
  module.def("pair_gemm", &pair_gemm, py::arg("feats"), py::arg("grad_out"), py::arg("in_index"),
             py::arg("out_index"), py::arg("tap_ptr"), py::arg("grad_weight"), py::arg("scratch"));
}

}  // namespace tsl::bind
