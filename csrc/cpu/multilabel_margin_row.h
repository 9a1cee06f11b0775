// What multilabel_margin's host code and its files for each instruction set agree on. No PyTorch
// header here: its inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

struct MarginRow {
  const void* logits;  // [size] in their own format
  int64_t size;
  const int64_t* targets;  // [num_targets], ascending
  int64_t num_targets;
  double* scratch;  // [2 num_targets]
  void* grad;       // [size] in the format of the logits, or null
  double factor;    // of the gradient
  bool stream;      // grad is aligned float32 and written past the caches
};

// The loss of the row; writes its gradient, if that is wanted.
using MultilabelMarginRow = double(FloatFormat format, const MarginRow& row);
MultilabelMarginRow multilabel_margin_plain, multilabel_margin_avx2, multilabel_margin_avx512;

}  // namespace fastheads
