// The fully connected stages of squeeze_excite on CUDA: out[n, o] = sum_k in[n, k] W(o, k) for up
// to kSamples samples and kOutputs outputs in one block, so that a weight is read once for them
// all.
#pragma once

#include "squeeze_excite_stages.cuh"

namespace fastheads {
namespace {

// A tile of a matrix [rows, columns], kColumns wide, from (row, column) on: every thread loads a
// column of it, kStep rows apart, so that neighbouring threads load neighbours in memory.
template <int kColumns>
struct TileLoad {
  static constexpr int kStep = kThreads / kColumns;

  static __device__ int row(int i) { return threadIdx.x / kColumns + i * kStep; }
  static __device__ int column() { return threadIdx.x % kColumns; }

  template <typename word_t, typename out_t, int count>
  static __device__ void run(const word_t* matrix, int rows, int columns, int row0, int column0,
                             out_t (&out)[count]) {
    const int r = row0 + row(0), c = column0 + column();
    const int limit = c < columns ? rows - r : 0;
    const word_t* address = matrix + int64_t(r) * columns + c;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      out[i] = i * kStep < limit ? *address : word_t(0);
      address += int64_t(kStep) * columns;
    }
  }
};

template <typename scalar_t, typename bits_t>
__device__ acc_t<scalar_t> widen(bits_t bits, bool wide) {
  acc_t<scalar_t> value;
  scalar_t narrow;
  memcpy(&value, &bits, sizeof(value));
  memcpy(&narrow, &bits, sizeof(narrow));
  return wide ? value : static_cast<acc_t<scalar_t>>(narrow);
}

// Outputs from tile kOutputs on. in: [N, depth]; weight: [outputs, depth], or transposed [depth,
// outputs]; finish(n, o, sum) is called once for each result.
template <bool transposed, typename scalar_t, typename Finish>
__device__ void product_tile(const Rows& rows, int outputs, int depth, int tile,
                             const acc_t<scalar_t>* in, const Parameter<scalar_t>& weight,
                             Shared<acc_t<scalar_t>>& shared, const Finish& finish) {
  using acc = acc_t<scalar_t>;
  constexpr int kDepth = Shared<acc>::kDepth;
  constexpr int kColumns = transposed ? kOutputs : kDepth;
  // Weights travel to shared memory as they are: a conversion would wait for the load.
  using bits_t = std::conditional_t<sizeof(acc) == 8, uint64_t, uint32_t>;
  const int o0 = tile * kOutputs;
  const bool wide = std::is_same_v<acc, scalar_t> || weight.wide;
  constexpr int kWeights = kDepth * kOutputs / kThreads, kInputs = kDepth * kSamples / kThreads;
  bits_t weights[kWeights] = {};
  acc inputs[kInputs] = {};
  const auto fetch = [&](int k0) {
    const auto fetch_weights = [&](const auto* words) {
      TileLoad<kColumns>::run(words, transposed ? depth : outputs, transposed ? outputs : depth,
                              transposed ? k0 : o0, transposed ? o0 : k0, weights);
    };
    if (wide) {
      fetch_weights(static_cast<const bits_t*>(weight.data));
    } else {
      fetch_weights(static_cast<const uint16_t*>(weight.data));
    }
    TileLoad<kDepth>::run(in + rows.first * depth, rows.count, depth, 0, k0, inputs);
  };
  const auto share = [&] {
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      const int row = TileLoad<kColumns>::row(i), column = TileLoad<kColumns>::column();
      shared.product.weights[transposed ? row : column][transposed ? column : row] =
          widen<scalar_t>(weights[i], wide);
    }
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      shared.product.inputs[TileLoad<kDepth>::column()][TileLoad<kDepth>::row(i)] = inputs[i];
    }
  };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  acc sums[kSamples] = {};
  for (int k0 = 0; k0 < depth + kDepth; k0 += kDepth) {
    __syncthreads();  // the terms before are used up
    if (k0 > 0) share();
    __syncthreads();
    if (k0 < depth) fetch(k0);  // on their way while those shared are summed
    if (k0 == 0) continue;
#pragma unroll 2
    for (int k = warp * (kDepth / kWarps); k < (warp + 1) * (kDepth / kWarps); ++k) {
      const acc w = shared.product.weights[k][lane];
#pragma unroll
      for (int n = 0; n < kSamples; ++n) sums[n] += shared.product.inputs[k][n] * w;
    }
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kSamples; ++n) shared.parts[warp][n][lane] = sums[n];
  __syncthreads();
  if (warp < rows.count && o0 + lane < outputs) {  // kWarps = kSamples
    acc sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += shared.parts[part][warp][lane];
    finish(rows.first + warp, o0 + lane, sum);
  }
  __syncthreads();  // the shared memory is used again
}
static_assert(kWarps == kSamples);

// Activations; NaN passes through as in PyTorch.
template <typename acc>
__device__ acc sigmoid(acc v) {
  return acc(1) / (acc(1) + std::exp(-v));
}

template <typename acc>
__device__ acc hard_sigmoid(acc v) {
  return (v < -3 ? acc(0) : v > 3 ? acc(6) : v + 3) / 6;
}

template <typename acc>
__device__ acc activate(Inner inner, acc v) {
  if (inner == Inner::kRelu) return v < 0 ? acc(0) : v;
  if (inner == Inner::kHardSwish) return v * hard_sigmoid(v);
  return inner == Inner::kSilu ? v * sigmoid(v) : v;
}

template <typename acc>
__device__ acc slope(Inner inner, acc v) {
  if (inner == Inner::kRelu) return v > 0 ? acc(1) : acc(0);
  if (inner == Inner::kIdentity) return acc(1);
  if (inner == Inner::kHardSwish) return v <= -3 ? acc(0) : v >= 3 ? acc(1) : v / 3 + acc(0.5);
  const acc e = sigmoid(v);
  return e * (1 + v * (1 - e));
}

template <typename acc>
__device__ acc open(Gate gate, acc v) {
  return gate == Gate::kSigmoid ? sigmoid(v) : hard_sigmoid(v);
}

// From its value s.
template <typename acc>
__device__ acc slope(Gate gate, acc s) {
  if (gate == Gate::kSigmoid) return s * (1 - s);
  return s > 0 && s < 1 ? acc(1) / 6 : acc(0);
}

}  // namespace
}  // namespace fastheads
