// What the gate's host code and its files for each instruction set agree on. No PyTorch header
// here: its inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

// Means over pixels of part of one sample, [channels, pixels] or [pixels, channels].
struct PoolPart {
  const void* x;  // the sample
  void* means;    // [channels]
  int64_t channels, pixels;
  int64_t begin, end;  // of the channels
  bool channels_last;
};

struct GateLayers {
  const void* means;    // [N, C], float or double
  const void* weight1;  // [d, C]
  const void* units;    // [2, d], float or double: scale and shift after weight1
  const void* weight2;  // [2, d]
  void* beta;           // [N, 2], float or double, without bias2
  int64_t channels, hidden;
};

struct GateKernels {
  void (*pool)(FloatFormat x, const PoolPart& part);
  void (*layers)(FloatFormat weights, const GateLayers& layers, int64_t begin, int64_t end);
};

extern const GateKernels gate_plain, gate_avx2, gate_avx512;

}  // namespace fastheads
