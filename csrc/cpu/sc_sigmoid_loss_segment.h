// What sc_sigmoid_loss's host code and its files for each instruction set agree on. No PyTorch
// header here: its inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

// One row's logits of one group. Numbers are in the type of sums: double for double, else float.
struct SigmoidSegment {
  void* logits;  // [size] in their own format
  int64_t size;
  const int64_t* targets;  // [num_targets], ascending, of this group
  int64_t num_targets;
  int64_t first_label;
  const void* values;         // [num_targets], or null: 1
  const void* gamma;          // [size] or [1], or null: 1
  const void* label_bias;     // [size], or null: 0
  const void* label_weights;  // [size], or null: 1
  void* gamma_columns;        // [size] to add gradients to, or null
  void* bias_columns;
  double scale;  // of all gradients
  bool gamma_per_label, normalize, with_loss, with_grad;
};

struct SigmoidSums {
  double loss;
  double gamma;  // gradient of the group's gamma
};

// Replaces the logits by their gradient, if that is wanted.
using ScSigmoidLossSegment = SigmoidSums(FloatFormat format, const SigmoidSegment& segment);
ScSigmoidLossSegment sc_sigmoid_loss_plain, sc_sigmoid_loss_avx2, sc_sigmoid_loss_avx512;

}  // namespace fastheads
