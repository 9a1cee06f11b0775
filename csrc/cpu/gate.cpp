// The gate on the CPU: pooling and layers in the file for the instruction set, decisions here.
#include "../gate.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "dispatch.h"
#include "gate_rows.h"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

const GateKernels& gate_kernels() {
#ifdef __x86_64__
  static const Isa isa = isa_here();
  if (isa == Isa::kAvx512) return gate_avx512;
  if (isa == Isa::kAvx2) return gate_avx2;
#endif
  return gate_plain;
}

// x: [N, C, H W] or [N, H W, C]; means: [N, C]. A task is a sample, or fewer channels where there
// are fewer samples than threads; the sum of a channel is the same either way.
void pool(const GateShape& shape, FloatFormat format, bool channels_last, const void* x,
          void* means) {
  const char* from = static_cast<const char*>(x);
  char* to = static_cast<char*>(means);
  const int64_t mean_bytes = shape.channels * std::max(4, bytes_of(format));
  const int64_t sample_bytes = shape.channels * shape.pixels * bytes_of(format);
  const int64_t wanted = (torch::stable::get_num_threads() + shape.samples - 1) / shape.samples;
  const int64_t block = std::max<int64_t>(64, (shape.channels / wanted + 63) / 64 * 64);
  const int64_t parts = (shape.channels + block - 1) / block;
  const int64_t grain = std::max<int64_t>(1, 65536 / (block * shape.pixels));
  torch::stable::parallel_for(0, shape.samples * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / parts, first = task % parts * block;
      gate_kernels().pool(
          format, {from + n * sample_bytes, to + n * mean_bytes, shape.channels, shape.pixels,
                   first, std::min(shape.channels, first + block), channels_last});
    }
  });
}

// Both layers of every sample, without bias2; scale and shift of the hidden units once for all.
template <typename weight_t>
auto run_layers(const GateShape& shape, FloatFormat format, const void* means,
                const weight_t* weight1, const GateUnits<weight_t>& from, const weight_t* weight2) {
  std::vector<acc_t<weight_t>> units(2 * shape.hidden), beta(2 * shape.samples);
  for (int64_t j = 0; j < shape.hidden; ++j) {
    units[j] = from.scale(j);
    units[shape.hidden + j] = from.shift(j, units[j]);
  }
  const GateLayers layers{means,       weight1,        units.data(), weight2,
                          beta.data(), shape.channels, shape.hidden};
  const int64_t work = std::max<int64_t>(1, shape.channels * shape.hidden);
  torch::stable::parallel_for(
      0, shape.samples, std::max<int64_t>(1, 131072 / work),
      [&](int64_t begin, int64_t end) { gate_kernels().layers(format, layers, begin, end); });
  return beta;
}

// beta: [N, 2] without bias2; bias2: [2] or null; noise: [N, 2] or null
template <typename weight_t, typename acc>
void decide(const std::vector<acc>& beta, const weight_t* bias2, const acc* noise,
            double temperature, bool soft, acc* z, acc* probability) {
  for (size_t n = 0; n < beta.size() / 2; ++n) {
    acc noisy[2];
    for (int k = 0; k < 2; ++k) {
      noisy[k] = beta[2 * n + k] + GateUnits<weight_t>::at(bias2, k, 0);
      if (noise != nullptr) noisy[k] += noise[2 * n + k];
    }
    // In double, where no positive temperature is zero.
    const double logit = (static_cast<double>(noisy[1]) - noisy[0]) / temperature;
    probability[n] = static_cast<acc>(1 / (1 + std::exp(-logit)));
    const bool keep = soft || std::isnan(logit);
    z[n] = keep ? probability[n] : static_cast<acc>(noisy[1] >= noisy[0]);
  }
}

std::tuple<Tensor, Tensor, Tensor> gate(
    const Tensor& x_, const Tensor& weight1_, const MaybeTensor& bias1_, const Tensor& weight2_,
    const MaybeTensor& bias2_, const MaybeTensor& noise_, double temperature, bool soft,
    const MaybeTensor& running_mean, const MaybeTensor& running_var, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, double eps) {
  const GateNorm norm_{running_mean, running_var, norm_weight, norm_bias};
  const auto shape =
      check_gate(x_, weight1_, bias1_, weight2_, bias2_, noise_, temperature, norm_, eps);
  const Tensor x = dense(x_);
  const Tensor weight1 = as_contiguous(weight1_), weight2 = as_contiguous(weight2_);
  const MaybeTensor bias1 = contiguous(bias1_), bias2 = contiguous(bias2_);
  const MaybeTensor noise = contiguous(noise_);
  const GateNorm norm = contiguous(norm_);
  const auto dtype = sum_dtype(x);
  Tensor z = empty<1>({shape.samples}, dtype);
  Tensor probability = empty<1>({shape.samples}, dtype);
  Tensor means = empty<2>({shape.samples, shape.channels}, dtype);
  if (shape.samples == 0) return {z, probability, means};
  const bool channels_last = channels_innermost(x) || shape.pixels == 1;
  pool(shape, format_of(x.scalar_type()), channels_last, x.const_data_ptr(),
       means.mutable_data_ptr());
  FASTHEADS_DISPATCH(weight1, "gate", [&] {
    const auto units = gate_units<scalar_t>(bias1, norm, eps);
    const auto beta =
        run_layers(shape, format_of(weight1.scalar_type()), means.const_data_ptr(),
                   weight1.const_data_ptr<scalar_t>(), units, weight2.const_data_ptr<scalar_t>());
    using acc = acc_t<scalar_t>;
    decide(beta, data_or_null<scalar_t>(bias2), data_or_null<acc>(noise), temperature, soft,
           z.mutable_data_ptr<acc>(), probability.mutable_data_ptr<acc>());
  });
  return {z, probability, means};
}

// Every sample is written to the next place of its kind, and kept or overwritten: no branch to
// mispredict. The closed ones go first, from the end.
template <typename scalar_t>
int64_t list_active(int64_t samples, const scalar_t* z, int64_t* active) {
  int64_t last = samples - 1;
  for (int64_t n = samples - 1; n >= 0 && last >= 0; --n) {
    active[last] = n;
    last -= !(z[n] > 0);
  }
  const int64_t first_closed = last + 1 < samples ? active[last + 1] : 0;
  int64_t count = 0;
  bool numbers = true;
  for (int64_t n = 0; n < samples; ++n) {
    active[count] = n;
    count += z[n] > 0;
    numbers &= z[n] == z[n];
  }
  if (!numbers) {
    const auto* nan = std::find_if(z, z + samples, [](scalar_t value) { return value != value; });
    STD_TORCH_CHECK(false, "active_samples: z must be a number, got nan for sample ", nan - z);
  }
  if (count < samples) active[count] = first_closed;
  return count;
}

std::tuple<Tensor, Tensor> active_samples(const Tensor& z_) {
  check_active_samples(z_);
  const Tensor z = as_contiguous(z_);
  const int64_t samples = z.size(0);
  Tensor active = empty<1>({samples}, ScalarType::Long);
  Tensor count = empty<1>({1}, ScalarType::Long);
  int64_t* rows = active.mutable_data_ptr<int64_t>();
  *count.mutable_data_ptr<int64_t>() = z.scalar_type() == ScalarType::Double
                                           ? list_active(samples, z.const_data_ptr<double>(), rows)
                                           : list_active(samples, z.const_data_ptr<float>(), rows);
  return {active, count};
}

}  // namespace

// The weights of a gate where they lie, all of one format; nn/gate_of_one.py has the same fields.
struct GateOfOne {
  const void *weight1, *bias1, *weight2, *bias2;          // the biases may be null
  const void *mean, *variance, *norm_weight, *norm_bias;  // each may be null as in GateUnits
  int64_t channels, hidden;
  float eps;
  FloatFormat format;  // not float64
};

namespace {

template <typename weight_t>
float probability_of_one(const GateOfOne& gate, const float* means, double temperature) {
  const auto at = [](const void* from) { return static_cast<const weight_t*>(from); };
  const GateShape shape{1, gate.channels, 1, gate.hidden};
  const GateUnits<weight_t> units{at(gate.bias1),       at(gate.mean),      at(gate.variance),
                                  at(gate.norm_weight), at(gate.norm_bias), gate.eps};
  const auto beta =
      run_layers(shape, gate.format, means, at(gate.weight1), units, at(gate.weight2));
  float z = 0, probability = 0;
  decide<weight_t, float>(beta, at(gate.bias2), nullptr, temperature, false, &z, &probability);
  return std::copysign(probability, z > 0 ? 1.0f : -1.0f);
}

}  // namespace

// The probability of one sample in evaluation, contiguous or channels-last, not float64; its sign
// bit says that the gate stays closed. No operator: with cold caches its arguments and results take
// ten times as long as its arithmetic.
extern "C" float fastheads_gate_of_one(const GateOfOne* gate, const void* x, FloatFormat format,
                                       int64_t pixels, bool channels_last, double temperature) {
  std::vector<float> means(gate->channels);
  pool({1, gate->channels, pixels, gate->hidden}, format, channels_last || pixels == 1, x,
       means.data());
  const auto of_one = gate->format == FloatFormat::kFloat32 ? probability_of_one<float>
                      : gate->format == FloatFormat::kFloat16
                          ? probability_of_one<torch::headeronly::Half>
                          : probability_of_one<torch::headeronly::BFloat16>;
  return of_one(*gate, means.data(), temperature);
}

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("active_samples", TORCH_BOX(&active_samples));
}

}  // namespace fastheads
