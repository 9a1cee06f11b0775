// The linear layers of squeeze_excite, included by one file an instruction set. Sums are split into
// several partial sums, which are added in an order that depends on the shape alone.
#pragma once

#include "float_vector.h"
#include "squeeze_excite_kernels.h"

namespace fastheads {
namespace {

constexpr int64_t kDepth = 64;  // terms of a product summed before they join all

template <typename sum_t>
sum_t value_or(const sum_t* values, int64_t i, sum_t otherwise) {
  return values != nullptr ? values[i] : otherwise;
}

// GCC would clear the array in memory ("= {}") and leave it there.
template <typename V, int kRows, int kColumns>
void clear(V (&sums)[kRows][kColumns]) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) sums[r][c] = V{};
  }
}

template <typename sum_t>
Vector<sum_t> activate(Activation activation, Vector<sum_t> v) {
  using V = Vector<sum_t>;
  switch (activation) {
    case Activation::kRelu:
      return v < 0 ? V{} : v;
    case Activation::kSilu:
      return v / (1 + exp(-v));
    case Activation::kSigmoid:
      return 1 / (1 + exp(-v));
    case Activation::kHardSigmoid:
      v = v + 3 < 0 ? V{} : v + 3;
      return (v > 6 ? V{} + 6 : v) / 6;
    case Activation::kHardSwish:
      return v * activate<sum_t>(Activation::kHardSigmoid, v);
    default:
      return v;
  }
}

// Linear layers with weights in the format F, and products with matrices in it.
template <class F>
struct LinearLoops {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  using V = Vector<sum_t>;
  // Tiles that fit the registers: 16 sums with AVX-512, 8 else.
  static constexpr int kOutputs = 4;
  static constexpr int kRows = kVectorBytes == 64 ? 4 : 2;

  static void forward(const Linear<sum_t>& linear, Range rows, Range columns, const sum_t* in,
                      sum_t* out) {
    int64_t j = columns.begin;
    for (; j + kOutputs <= columns.end; j += kOutputs) dots<kOutputs>(linear, rows, j, in, out);
    for (; j < columns.end; ++j) dots<1>(linear, rows, j, in, out);
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      sum_t* row = out + n * linear.outputs + columns.begin;
      for_vectors<sum_t>(columns.end - columns.begin, [&](int64_t i, auto part) {
        write(row + i, activate<sum_t>(linear.activation, read<V>(row + i, part)), part);
      });
    }
  }

  static void product(const Product<sum_t>& of, Range rows, Range columns) {
    int64_t j = 0;
    do {
      const Range terms{j, j + kDepth < of.depth ? j + kDepth : of.depth};
      int64_t i = rows.begin;
      for (; i + kRows <= rows.end; i += kRows) add_rows<kRows>(of, i, terms, columns);
      for (; i < rows.end; ++i) add_rows<1>(of, i, terms, columns);
    } while ((j += kDepth) < of.depth);
  }

 private:
  template <int kColumns>
  static void dots(const Linear<sum_t>& linear, Range rows, int64_t j, const sum_t* in,
                   sum_t* out) {
    int64_t n = rows.begin;
    for (; n + kRows <= rows.end; n += kRows) dots_of<kColumns, kRows>(linear, n, j, in, out);
    for (; n < rows.end; ++n) dots_of<kColumns, 1>(linear, n, j, in, out);
  }

  template <int kColumns, int kSamples>
  static void dots_of(const Linear<sum_t>& linear, int64_t n, int64_t j, const sum_t* in,
                      sum_t* out) {
    const int64_t size = linear.inputs;
    const raw_t* weight = static_cast<const raw_t*>(linear.weight) + j * size;
    in += n * size;
    V sums[kSamples][kColumns];
    clear(sums);
    for_vectors<sum_t>(size, [&](int64_t i, auto part) {
      V row[kSamples];
      for (int b = 0; b < kSamples; ++b) row[b] = read<V>(in + b * size + i, part);
      for (int a = 0; a < kColumns; ++a) {
        const V w = F::load(weight + a * size + i, part);
        for (int b = 0; b < kSamples; ++b) sums[b][a] += w * row[b];
      }
    });
    for (int b = 0; b < kSamples; ++b) {
      sum_t* to = out + (n + b) * linear.outputs + j;
      if constexpr (kColumns == 4) {
        sum_lanes(sums[b], to);
      } else {
        for (int a = 0; a < kColumns; ++a) to[a] = sum_lanes<sum_t>(sums[b][a]);
      }
      for (int a = 0; a < kColumns; ++a) to[a] += value_or(linear.bias, j + a, sum_t(0));
    }
  }

  // Adds these terms of the sums to out, where the first of them begin.
  template <int kCount>
  static void add_rows(const Product<sum_t>& of, int64_t i, Range terms, Range columns) {
    constexpr int64_t kStep = 4 * kLanes<sum_t>;
    int64_t k = columns.begin;
    for (; k + kStep <= columns.end; k += kStep) add_tile<kCount, 4>(of, i, terms, k, All{});
    for_vectors<sum_t>(columns.end - k, [&](int64_t v, auto part) {
      add_tile<kCount, 1>(of, i, terms, k + v, part);
    });
  }

  template <int kCount, int kVectors, class Part>
  static void add_tile(const Product<sum_t>& of, int64_t i, Range terms, int64_t k, Part part) {
    const raw_t* matrix = static_cast<const raw_t*>(of.matrix);
    const sum_t* in = of.in + i * of.row_stride;
    V sums[kCount][kVectors];
    clear(sums);
    for (int64_t j = terms.begin; j < terms.end; ++j) {
      for (int v = 0; v < kVectors; ++v) {
        const V m = F::load(matrix + j * of.columns + k + v * kLanes<sum_t>, part);
        for (int b = 0; b < kCount; ++b) sums[b][v] += in[b * of.row_stride + j * of.stride] * m;
      }
    }
    for (int b = 0; b < kCount; ++b) {
      for (int v = 0; v < kVectors; ++v) {
        sum_t* to = of.out + (i + b) * of.columns + k + v * kLanes<sum_t>;
        write(to, terms.begin == 0 ? sums[b][v] : read<V>(to, part) + sums[b][v], part);
      }
    }
  }
};

}  // namespace
}  // namespace fastheads
