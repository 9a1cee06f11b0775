// What the host code and the files for each instruction set agree on. No PyTorch header here: its
// inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

namespace fastheads {

struct CsrProduct {
  const void* crow;    // [M + 1], int64 if long_indices, int32 otherwise
  const void* col;     // [nonzeros], likewise
  const void* values;  // [nonzeros], float64 if doubles, float32 otherwise
  const void* x;       // [L, B]
  void* y;             // [M, B]
  int64_t labels;      // L
  int64_t width;       // B
  int64_t nonzeros;
  bool doubles, long_indices;
};

// Writes y[begin:end]. Returns the first row with a column outside 0 to L - 1, which it does not
// follow, or end.
using MultiplyRows = int64_t(const CsrProduct& product, int64_t begin, int64_t end);

MultiplyRows multiply_rows_plain, multiply_rows_avx2, multiply_rows_avx512;

}  // namespace fastheads
