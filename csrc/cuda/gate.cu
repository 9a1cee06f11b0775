// The gate on CUDA: one kernel pools, one runs the two layers and decides, a block a sample. They
// are two because all means of a sample must be there before its first layer.
#include <tuple>

#include "../gate.h"
#include "common.cuh"
#include "means.cuh"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

template <typename scalar_t, int kVec>
struct Loaded {
  const Pack<scalar_t, kVec>* x;

  __device__ void add(int64_t i, acc_t<scalar_t> (&sums)[kVec]) const {
    const Pack<scalar_t, kVec> pack = x[i];
    for (int v = 0; v < kVec; ++v) sums[v] += static_cast<acc_t<scalar_t>>(pack.at[v]);
  }
};

// x: [N, C, H W] or [N, H W, C]; means: [N, C]
template <typename scalar_t, int kVec>
__global__ void __launch_bounds__(kThreads)
    pool_kernel(int64_t samples, MeanPlan plan, const scalar_t* x, acc_t<scalar_t>* means) {
  __shared__ acc_t<scalar_t> shared[kThreads * kVec];
  for (int64_t task = blockIdx.x; task < samples * plan.parts; task += gridDim.x) {
    const int64_t n = task / plan.parts;
    const auto* sample =
        reinterpret_cast<const Pack<scalar_t, kVec>*>(x + n * plan.channels * plan.pixels);
    part_means<kVec>(plan, task % plan.parts, Loaded<scalar_t, kVec>{sample}, shared,
                     means + n * plan.channels);
  }
}

template <typename weight_t>
struct Layers {
  const weight_t* weight1;       // [d, C]
  GateUnits<weight_t> units;     // what follows it
  const weight_t* weight2;       // [2, d]
  const weight_t* bias2;         // [2] or null
  const acc_t<weight_t>* noise;  // [N, 2] or null
  double temperature;
  bool soft;
};

// means: [N, C]; z, probability: [N]
template <typename weight_t>
__global__ void __launch_bounds__(kThreads)
    decide_kernel(GateShape shape, const acc_t<weight_t>* means, Layers<weight_t> layers,
                  acc_t<weight_t>* z, acc_t<weight_t>* probability) {
  using acc = acc_t<weight_t>;
  __shared__ acc partial[2][kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t n = blockIdx.x; n < shape.samples; n += gridDim.x) {
    const acc* mean = means + n * shape.channels;
    acc skip = 0, execute = 0;
    for (int64_t j = warp; j < shape.hidden; j += kWarps) {
      const weight_t* row = layers.weight1 + j * shape.channels;
      const acc scale = layers.units.scale(j), shift = layers.units.shift(j, scale);
      acc dot = 0;
      for (int64_t c = lane; c < shape.channels; c += 32) dot += static_cast<acc>(row[c]) * mean[c];
      const acc unit = warp_sum(dot) * scale + shift;
      const acc hidden = unit < 0 ? acc(0) : unit;  // NaN stays
      skip += static_cast<acc>(layers.weight2[j]) * hidden;
      execute += static_cast<acc>(layers.weight2[shape.hidden + j]) * hidden;
    }
    if (lane == 0) {
      partial[0][warp] = skip;
      partial[1][warp] = execute;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      acc beta[2] = {};
      for (int k = 0; k < 2; ++k) {
        for (int w = 0; w < kWarps; ++w) beta[k] += partial[k][w];
        if (layers.bias2 != nullptr) beta[k] += static_cast<acc>(layers.bias2[k]);
        if (layers.noise != nullptr) beta[k] += layers.noise[2 * n + k];
      }
      // In double, where no positive temperature is zero.
      const double logit = (static_cast<double>(beta[1]) - beta[0]) / layers.temperature;
      const acc chance = static_cast<acc>(1 / (1 + exp(-logit)));
      probability[n] = chance;
      const bool keep = layers.soft || isnan(logit);
      z[n] = keep ? chance : static_cast<acc>(beta[1] >= beta[0]);
    }
    __syncthreads();  // partial is used again
  }
}

template <typename scalar_t, int kVec>
void launch_pool(const GateShape& shape, bool channels_last, const Tensor& x, Tensor& means) {
  const auto plan = mean_plan(shape.samples, shape.channels, shape.pixels, channels_last, kVec);
  const unsigned blocks = blocks_of(shape.samples * plan.parts);
  pool_kernel<scalar_t, kVec><<<blocks, kThreads, 0, current_stream(x)>>>(
      shape.samples, plan, x.const_data_ptr<scalar_t>(), means.mutable_data_ptr<acc_t<scalar_t>>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename scalar_t>
void pool(const GateShape& shape, const Tensor& x, Tensor& means) {
  const bool channels_last = channels_innermost(x) || shape.pixels == 1;
  const int64_t run = channels_last ? shape.channels : shape.pixels;
  if (run % kFullPack<scalar_t> == 0 && aligned(x.const_data_ptr())) {
    launch_pool<scalar_t, kFullPack<scalar_t>>(shape, channels_last, x, means);
  } else {
    launch_pool<scalar_t, 1>(shape, channels_last, x, means);
  }
}

template <typename weight_t>
void launch_decide(const GateShape& shape, const Tensor& means, const Layers<weight_t>& layers,
                   Tensor& z, Tensor& probability) {
  using acc = acc_t<weight_t>;
  decide_kernel<weight_t><<<blocks_of(shape.samples), kThreads, 0, current_stream(means)>>>(
      shape, means.const_data_ptr<acc>(), layers, z.mutable_data_ptr<acc>(),
      probability.mutable_data_ptr<acc>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor> gate(
    const Tensor& x_, const Tensor& weight1_, const MaybeTensor& bias1_, const Tensor& weight2_,
    const MaybeTensor& bias2_, const MaybeTensor& noise_, double temperature, bool soft,
    const MaybeTensor& running_mean, const MaybeTensor& running_var, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, double eps) {
  const GateNorm norm_{running_mean, running_var, norm_weight, norm_bias};
  const auto shape =
      check_gate(x_, weight1_, bias1_, weight2_, bias2_, noise_, temperature, norm_, eps);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = dense(x_);
  const Tensor weight1 = as_contiguous(weight1_), weight2 = as_contiguous(weight2_);
  const MaybeTensor bias1 = contiguous(bias1_), bias2 = contiguous(bias2_);
  const MaybeTensor noise = contiguous(noise_);
  const GateNorm norm = contiguous(norm_);
  const auto dtype = sum_dtype(x);
  Tensor z = torch::stable::new_empty(x, {shape.samples}, dtype);
  Tensor probability = torch::stable::new_empty(x, {shape.samples}, dtype);
  Tensor means = torch::stable::new_empty(x, {shape.samples, shape.channels}, dtype);
  if (shape.samples == 0) return {z, probability, means};
  if (shape.channels > 0) {
    FASTHEADS_DISPATCH(x, "gate", [&] { pool<scalar_t>(shape, x, means); });
  }
  FASTHEADS_DISPATCH(weight1, "gate", [&] {
    Layers<scalar_t> layers{};
    layers.weight1 = weight1.const_data_ptr<scalar_t>();
    layers.units = gate_units<scalar_t>(bias1, norm, eps);
    layers.weight2 = weight2.const_data_ptr<scalar_t>();
    layers.bias2 = data_or_null<scalar_t>(bias2);
    layers.noise = data_or_null<acc_t<scalar_t>>(noise);
    layers.temperature = temperature;
    layers.soft = soft;
    launch_decide(shape, means, layers, z, probability);
  });
  return {z, probability, means};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("gate", TORCH_BOX(&gate));
}

}  // namespace fastheads
