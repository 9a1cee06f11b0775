// What the host code chooses a kernel by: the processor and the format of the numbers.
#pragma once

#include <cstdlib>
#include <string>

#include "../common.h"
#include "float_format.h"

namespace fastheads {

enum class Isa { kPlain, kAvx2, kAvx512 };

// The best of this processor, or less on request, by the variable that PyTorch's own kernels heed.
inline Isa isa_here() {
#ifdef __x86_64__
  const char* set = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string capability = set != nullptr ? set : "avx512";
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && capability == "avx512") return Isa::kAvx512;
  if (avx2 && capability != "default") return Isa::kAvx2;
#endif
  return Isa::kPlain;
}

// Whether products of pairs of bfloat16 come with AVX-512.
inline bool has_avx512_bf16() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

inline FloatFormat format_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return FloatFormat::kFloat64;
    case ScalarType::Half:
      return FloatFormat::kFloat16;
    case ScalarType::BFloat16:
      return FloatFormat::kBFloat16;
    default:
      return FloatFormat::kFloat32;
  }
}

}  // namespace fastheads
