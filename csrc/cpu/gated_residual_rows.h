// What gated_residual's host code and its files for each instruction set agree on. No PyTorch
// header here: its inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

// Adjacent elements of one sample.
struct GatedPart {
  const void* x;
  const void* f;  // not read where the gate is 0
  void* y;
  int64_t size;
  double gate;
  bool relu;
};

struct GatedBackwardPart {
  const char* grad;
  const char* y;  // or null: no ReLU
  const char* f;  // or null: no gradient of the gate
  char* grad_x;   // written with a ReLU only
  char* grad_f;
  int64_t size;
  double gate;
};

// Part of a sample of x, [channels, pixels] or [pixels, channels], to which f is added in place.
struct ScatterPart {
  void* x;
  const void* f;
  void* means;  // [channels] or null
  int64_t channels, pixels;
  int64_t begin, end;  // of the channels, or of all elements without means
  bool channels_last;
  bool relu;
};

struct GatedResidualKernels {
  void (*forward)(FloatFormat format, const GatedPart& part);
  double (*backward)(FloatFormat format, const GatedBackwardPart& part);  // <g, f> of the part
  void (*scatter)(FloatFormat format, const ScatterPart& part);
};

extern const GatedResidualKernels gated_residual_plain, gated_residual_avx2, gated_residual_avx512;

}  // namespace fastheads
