// SPDX-License-Identifier: MIT
#include "cuda/implicit_gemm.h"

#include <utility>

#include "cuda/warp_block.cuh"
#include "cuda/executor.cuh"

namespace tsl::cuda {
namespace {

template <class S, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kResidentThreads / Shape::kThreads)
    gemm_kernel(const __grid_constant__ ImplicitGemm<S> gemm) {
  WarpBlock block;
  ImplicitGemmTile<S, Shape, WarpBlock>(block, gemm, blockIdx.x, static_cast<int>(blockIdx.y))
      .run();
}

template <class Shape, class S>
void launch(const ImplicitGemm<S>& gemm, cudaStream_t stream) {
  constexpr int bytes = sizeof(TileMemory<Shape>);
  const auto kernel = &gemm_kernel<S, Shape>;
  TSL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const dim3 grid(static_cast<unsigned>(Shape::row_tiles(gemm.num_out)),
                  static_cast<unsigned>(Shape::channel_tiles(gemm.out.channels)));
  kernel<<<grid, Shape::kThreads, bytes, stream>>>(gemm);
  TSL_CUDA_CHECK(cudaGetLastError());
}

template <class S, int... numbers>
void launch_tile(const ImplicitGemm<S>& gemm, int tile, cudaStream_t stream,
                 std::integer_sequence<int, numbers...>) {
  ((tile == numbers ? launch<std::tuple_element_t<numbers, TileShapes>>(gemm, stream) : void()),
   ...);
}

}  // namespace

template <class S>
void pack_weight(const Call& call, const PackWeight<S>& pack) {
  Executor executor(call);
  const FragmentLayout layout = FragmentLayout::of<S>(pack.in_channels, pack.out_channels);
  executor.for_each(layout.size(pack.kernel_volume), pack);
}

void order_rows(const Call& call, const NeighborTable& table, const int64_t* tap_ptr,
                int kernel_volume, int64_t num_out, int64_t block_rows, int32_t* order) {
  Executor executor(call);
  tsl::order_rows(executor, table, tap_ptr, kernel_volume, num_out, block_rows, order);
}

template <class S>
void implicit_gemm(const Call& call, const ImplicitGemm<S>& gemm, int tile) {
  if (gemm.num_out == 0 || gemm.out.channels == 0) return;
  const DeviceGuard guard(call.device);
  launch_tile(gemm, tile, static_cast<cudaStream_t>(call.stream),
              std::make_integer_sequence<int, kTileShapes>());
}

template void pack_weight<float>(const Call&, const PackWeight<float>&);
template void pack_weight<BFloat16>(const Call&, const PackWeight<BFloat16>&);
template void pack_weight<Float16>(const Call&, const PackWeight<Float16>&);
template void implicit_gemm<float>(const Call&, const ImplicitGemm<float>&, int);
template void implicit_gemm<BFloat16>(const Call&, const ImplicitGemm<BFloat16>&, int);
template void implicit_gemm<Float16>(const Call&, const ImplicitGemm<Float16>&, int);

}  // namespace tsl::cuda
