// SPDX-License-Identifier: MIT
#include "cpu/simd/kernels.h"

namespace tsl::cpu {

namespace baseline {
extern const SimdKernels kKernels;
}
#ifdef __x86_64__
namespace avx2 {
extern const SimdKernels kKernels;
}
namespace avx512 {
extern const SimdKernels kKernels;
}
#endif

namespace {

struct Available {
  const SimdKernels* tables[4] = {};

  Available() {
    int count = 0;
#ifdef __x86_64__
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (has_avx512) tables[count++] = &avx512::kKernels;
    if (has_avx2) tables[count++] = &avx2::kKernels;
#endif
    tables[count] = &baseline::kKernels;
  }
};

}  // namespace

const SimdKernels* const* available_simd_kernels() {
  static const Available available;
  return available.tables;
}

}  // namespace tsl::cpu
