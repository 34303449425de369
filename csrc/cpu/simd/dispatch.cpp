// SPDX-License-Identifier: MIT
#include "cpu/simd/kernels.h"

#ifdef __x86_64__
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

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
namespace avx512_bf16 {
extern const SimdKernels kKernels;
}
namespace amx {
extern const SimdKernels kKernels;
}
#endif

namespace {

#if defined(__x86_64__) && defined(__linux__)
/// Whether the processor has AMX for bfloat16 and the kernel lets this process use the tiles.
bool may_use_tiles() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#elif defined(__x86_64__)
bool may_use_tiles() { return false; }
#endif

struct Available {
  const SimdKernels* tables[6] = {};

  Available() {
    int count = 0;
#ifdef __x86_64__
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
    const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
    if (has_bf16 && may_use_tiles()) tables[count++] = &amx::kKernels;
    if (has_bf16) tables[count++] = &avx512_bf16::kKernels;
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
