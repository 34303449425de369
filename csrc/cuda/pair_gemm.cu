// SPDX-License-Identifier: MIT
#include "cuda/pair_gemm.h"

#include "cuda/warp_block.cuh"
#include "cuda/executor.cuh"

namespace tsl::cuda {
namespace {

template <class S, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kResidentThreads / Shape::kThreads)
    pair_kernel(const PairGemm<S> gemm) {
  WarpBlock block;
  PairGemmTile<S, Shape, WarpBlock>(block, gemm, blockIdx.x, static_cast<int>(blockIdx.y),
                                    static_cast<int>(blockIdx.z))
      .run();
}

template <class Shape, class S>
void run(const Call& call, PairGemm<S> gemm, AddParts add) {
  Executor executor(call);
  const int64_t parts = PairParts::most(gemm.num_pairs, gemm.parts.kernel_volume);
  const int in_tiles = Shape::in_tiles(gemm.in_channels);
  const int out_tiles = Shape::out_tiles(gemm.out_channels);
  gemm.in_width = in_tiles * Shape::kIn;
  gemm.out_width = out_tiles * Shape::kOut;
  const auto [partial] = scratch<float>(executor, {parts * gemm.in_width * gemm.out_width});
  add.partial = gemm.partial = partial;
  add.in_width = gemm.in_width;
  add.out_width = gemm.out_width;

  constexpr int bytes = sizeof(PairTileMemory<Shape>);
  const auto kernel = &pair_kernel<S, Shape>;
  TSL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(in_tiles),
                  static_cast<unsigned>(out_tiles));
  kernel<<<grid, Shape::kThreads, bytes, static_cast<cudaStream_t>(call.stream)>>>(gemm);
  TSL_CUDA_CHECK(cudaGetLastError());
  executor.for_each(int64_t{add.parts.kernel_volume} * add.in_channels * add.out_channels, add);
}

}  // namespace

template <class S>
void weight_grad(const Call& call, const PairGemm<S>& gemm, int in_channels, int out_channels,
                 float* grad_weight) {
  if (in_channels == 0 || out_channels == 0) return;
  const AddParts add{gemm.parts, nullptr, 0, 0, in_channels, out_channels, grad_weight};
  const int least = gemm.in_channels < gemm.out_channels ? gemm.in_channels : gemm.out_channels;
  if (least <= kPairBlock) return run<PairTileShape<1, 1>>(call, gemm, add);
  if (gemm.in_channels % 96 == 0 && gemm.out_channels % 96 == 0) {
    return run<PairTileShape<3, 3>>(call, gemm, add);
  }
  return run<PairTileShape<2, 2>>(call, gemm, add);
}

template void weight_grad<BFloat16>(const Call&, const PairGemm<BFloat16>&, int, int, float*);
template void weight_grad<Float16>(const Call&, const PairGemm<Float16>&, int, int, float*);

}  // namespace tsl::cuda
