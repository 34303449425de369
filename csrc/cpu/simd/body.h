// SPDX-License-Identifier: MIT
// The text behind SimdKernels. Included once by each simd/<isa>.cpp, which defines
//   TSL_SIMD_NAMESPACE, TSL_SIMD_NAME, TSL_SIMD_BYTES (vector width), TSL_SIMD_REGISTERS (vectors).
// Everything in it has internal linkage, so code compiled for one instruction set can never be
// merged by the linker with code compiled for another.

#include "cpu/simd/conv_tile.h"
#include "cpu/simd/filter_keys.h"
#include "cpu/simd/kernels.h"
#include "cpu/simd/weight_grad.h"

namespace tsl::cpu::TSL_SIMD_NAMESPACE {
namespace {

template <class S, class A>
constexpr ConvKernels<S, A> kConvKernels{kLanes<A>, kMaxVectors, MathOf<S, A>::kFormat,
                                         conv_tile<S, A>, weight_grad<S, A>};

}  // namespace

extern const SimdKernels kKernels;
const SimdKernels kKernels{TSL_SIMD_NAME,
                           filter_keys,
                           kConvKernels<float, float>,
                           kConvKernels<double, double>,
                           kConvKernels<BFloat16, float>,
                           kConvKernels<Float16, float>,
                           channelwise_tile<float>,
                           channelwise_tile<double>};

}  // namespace tsl::cpu::TSL_SIMD_NAMESPACE
