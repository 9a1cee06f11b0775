// What the host code of squeeze_excite and the files for each instruction set agree on. No PyTorch
// header here: its inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

enum class Activation { kNone, kRelu, kSilu, kSigmoid, kHardSigmoid, kHardSwish };

struct Range {
  int64_t begin, end;
};

// A part of the maps: these channels and blocks of pixels of these samples.
struct Tile {
  Range samples, channels, blocks;
};

// Channels-last maps are summed by blocks of pixels, each a row of the partial sums.
struct MapShape {
  int64_t channels;      // C
  int64_t pixels;        // H W
  int64_t blocks;        // B; 1 unless channels-last
  int64_t block_pixels;  // of all blocks but the last
  bool channels_last;    // maps are [N, H W, C], else [N, C, H W]
};

// Sums are float, or double for float64.
template <typename sum_t>
struct ExciteForward {
  MapShape shape;
  const void* x;
  const void* residual;  // or null
  void* y;
  const sum_t *scale, *shift;  // [C], or null
  const sum_t* s;              // [N, C]
  sum_t* sums;                 // [N, B, C]
  bool relu;
  bool stream;  // y is written past the caches: its vectors are whole and aligned
};

template <typename sum_t>
struct ExciteBackward {
  MapShape shape;
  const void *grad, *x;
  const void* y;  // or null: nothing is masked
  void* grad_x;
  void* grad_residual;         // or null
  const sum_t *scale, *shift;  // [C], or null
  const sum_t *s, *grad_mean;  // [N, C]
  sum_t* sums;                 // [N, B, C]
};

// out = activation(in weight^T + bias), of some rows and columns of out.
template <typename sum_t>
struct Linear {
  const void* weight;  // [outputs, inputs]
  const sum_t* bias;   // [outputs], or null
  int64_t outputs, inputs;
  Activation activation;
};

// out = in matrix, of some rows and columns of out.
template <typename sum_t>
struct Product {
  const void* matrix;  // [depth, columns]
  int64_t depth, columns;
  const sum_t* in;  // [rows, depth], in these strides
  int64_t row_stride, stride;
  sum_t* out;  // [rows, columns]
};

template <typename sum_t>
struct ExciteKernels {
  using Forward = ExciteForward<sum_t>;
  using Backward = ExciteBackward<sum_t>;
  using Linear = fastheads::Linear<sum_t>;
  using Product = fastheads::Product<sum_t>;

  void (*pool)(const Forward&, const Tile&);              // writes sums of x
  void (*excite)(const Forward&, const Tile&);            // reads s, writes y
  void (*pool_backward)(const Backward&, const Tile&);    // writes grad_residual and sums of g u
  void (*excite_backward)(const Backward&, const Tile&);  // reads s and grad_mean, writes grad_x
  // in: [N, inputs], out: [N, outputs]
  void (*linear)(const Linear&, Range rows, Range columns, const sum_t* in, sum_t* out);
  void (*weight_product)(const Product&, Range rows, Range columns);  // matrix: in their format
  void (*sum_product)(const Product&, Range rows, Range columns);     // matrix: sums
};

// Of maps in one format and weights in that or in the format of the sums.
template <typename sum_t>
using GetExciteKernels = ExciteKernels<sum_t>(FloatFormat maps, FloatFormat weights);

GetExciteKernels<float> excite_kernels_plain, excite_kernels_avx2, excite_kernels_avx512;
ExciteKernels<double> excite_kernels_float64();

}  // namespace fastheads
