// What the host code of sc_linear and its files for each instruction set agree on. No PyTorch
// header here: its inline functions must not be compiled for AVX-512. Packed numbers, in which sums
// run, are double for float64, else float.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

// to[r, c] = from[picked[r], c] in packed numbers, and zeros behind.
struct ScPack {
  const void* from;
  int64_t from_stride;
  const int64_t* picked;  // [rows] or null for all
  void* to;
  int64_t to_stride, rows, columns, zeros;
  bool transposed;  // to[c, r] instead; zeros after the last row, up to a whole vector
  bool raw;         // bfloat16 stays as it is
  int64_t ahead;    // of transposed: from each number to one that is packed later
};

constexpr int64_t kDotsRows = 128;  // the most at a time, a multiple of 4

// y[y_begins[r] + j] = x[r] w[j] + bias[j], or added to what is there.
struct ScDots {
  const void* w;     // [labels, width]
  const void* x;     // [rows, width], packed (or raw), with zeros up to the next whole vector
  const void* bias;  // [labels] or null
  void* y;
  const int64_t* y_begins;
  int64_t x_stride, width;
  int64_t rows, labels;  // at most kDotsRows of rows
  bool accumulate;
};
// For lanes, x is packed in panels [width, rows], one after the other: panel_bytes of rows each,
// the last as many as there are, in whole vectors. Any number of rows; x_stride says nothing.

// c[i, k] = sum_r a[r, i] b[r, k], or added to what is there; all packed.
struct ScOuter {
  const void *a, *b;  // rows of b may be read up to the next whole vector
  void* c;
  int64_t a_stride, b_stride, c_stride;
  int64_t sums, count, width;  // of r, i and k
  bool accumulate;
  const char* ahead;  // memory that is read next, and its size; or null and 0
  int64_t ahead_bytes;
  bool stream;  // c is written past the caches: its rows begin at cache lines
};

// to[r, c] = the sum of from[r, c] over packed parts.
struct ScReduce {
  const void* from;
  int64_t part_stride, parts, from_stride;
  void* to;
  int64_t to_stride, rows, columns;
};

// to[c] = the sum of from[r, c] over rows; nothing is packed.
struct ScColumnSums {
  const void* from;
  int64_t from_stride, rows;
  void* to;
  int64_t columns;
};

struct ScKernels {
  void (*pack)(FloatFormat from, const ScPack& pack);
  void (*dots)(FloatFormat format, const ScDots& dots);
  void (*lanes)(FloatFormat format, const ScDots& dots);
  void (*outer)(FloatFormat format, const ScOuter& outer);
  void (*reduce)(FloatFormat to, const ScReduce& reduce);
  void (*column_sums)(FloatFormat format, const ScColumnSums& sums);
  int64_t panel_bytes, vector_bytes;
  bool raw_bfloat16;  // dots reads x raw where it is bfloat16
};

extern const ScKernels sc_linear_plain, sc_linear_avx2, sc_linear_avx512, sc_linear_avx512bf16;

}  // namespace fastheads
