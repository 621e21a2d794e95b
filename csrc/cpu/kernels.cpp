// The kernels, compiled for each instruction set, and the choice of one.
#include "kernels.h"
#include "mask_merging.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

// Vectors are never passed between functions that are not inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

// SSE2 on x86-64, NEON on Arm: what every such processor has.
#define TARGET baseline
#define VECTOR_BYTES 16
#include "kernels.inc"
#undef TARGET
#undef VECTOR_BYTES

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define TARGET avx2
#define VECTOR_BYTES 32
#define HAS_AVX2
#include "kernels.inc"
#undef TARGET
#undef VECTOR_BYTES
#undef HAS_AVX2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace panoptic_segformer {
namespace {

#if defined(__x86_64__)
// Clang 14 and 16 refuse __builtin_cpu_supports("f16c").
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

// Obeys the variable by which torch's own kernels are held back.
bool use_avx2() {
  static const bool use = [] {
    const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
    return (limit == nullptr || std::strcmp(limit, "default") != 0) &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           has_f16c();
  }();
  return use;
}
#endif

}  // namespace

template <typename T, typename L>
const Kernels<T, L>& kernels() {
#if defined(__x86_64__)
  if (use_avx2()) {
    return avx2::kKernels<T, L>;
  }
#endif
  return baseline::kKernels<T, L>;
}

template <typename T>
const MaskKernels<T>& mask_kernels() {
#if defined(__x86_64__)
  if (use_avx2()) {
    return avx2::kMaskKernels<T>;
  }
#endif
  return baseline::kMaskKernels<T>;
}

template const MaskKernels<double>& mask_kernels();
template const MaskKernels<float>& mask_kernels();
template const Kernels<double, double>& kernels();
template const Kernels<float, float>& kernels();
template const Kernels<Half, Half>& kernels();
template const Kernels<Half, float>& kernels();
template const Kernels<BFloat16, BFloat16>& kernels();
template const Kernels<BFloat16, float>& kernels();

}  // namespace panoptic_segformer
