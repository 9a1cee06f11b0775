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

// A task is a sample, or fewer channels where there are fewer samples than threads; the sum of a
// channel is the same either way.
void pool(const GateShape& shape, const Tensor& x, Tensor& means) {
  const bool channels_last = channels_innermost(x) || shape.pixels == 1;
  const auto format = format_of(x.scalar_type());
  const char* from = static_cast<const char*>(x.const_data_ptr());
  char* to = static_cast<char*>(means.mutable_data_ptr());
  const int64_t sample_bytes = shape.channels * shape.pixels * x.element_size();
  const int64_t mean_bytes = shape.channels * means.element_size();
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

void run_layers(const GateShape& shape, const Tensor& means, const Tensor& weight1,
                const MaybeTensor& bias1, const Tensor& weight2, void* beta) {
  const GateLayers layers{means.const_data_ptr(),
                          weight1.const_data_ptr(),
                          bias1 ? bias1->const_data_ptr() : nullptr,
                          weight2.const_data_ptr(),
                          beta,
                          shape.channels,
                          shape.hidden};
  const auto format = format_of(weight1.scalar_type());
  const int64_t work = std::max<int64_t>(1, shape.channels * shape.hidden);
  torch::stable::parallel_for(
      0, shape.samples, std::max<int64_t>(1, 131072 / work),
      [&](int64_t begin, int64_t end) { gate_kernels().layers(format, layers, begin, end); });
}

template <typename acc>
struct Decision {
  acc bias[2];
  const acc* noise;  // [N, 2] or null
  double temperature;
  bool soft;

  void operator()(int64_t samples, const acc* beta, acc* z, acc* probability) const {
    for (int64_t n = 0; n < samples; ++n) {
      acc noisy[2];
      for (int k = 0; k < 2; ++k) {
        noisy[k] = beta[2 * n + k] + bias[k] + (noise != nullptr ? noise[2 * n + k] : acc(0));
      }
      // In double, where no positive temperature is zero.
      const double logit = (static_cast<double>(noisy[1]) - noisy[0]) / temperature;
      probability[n] = static_cast<acc>(1 / (1 + std::exp(-logit)));
      z[n] = soft ? probability[n] : static_cast<acc>(noisy[1] >= noisy[0]);
    }
  }
};

template <typename acc>
void run_and_decide(const GateShape& shape, const Tensor& means, const Tensor& weight1,
                    const MaybeTensor& bias1, const Tensor& weight2, const MaybeTensor& bias2,
                    const MaybeTensor& noise, double temperature, bool soft, Tensor& z,
                    Tensor& probability) {
  std::vector<acc> beta(2 * shape.samples);
  run_layers(shape, means, weight1, bias1, weight2, beta.data());
  Decision<acc> decision{{}, nullptr, temperature, soft};
  if (noise) decision.noise = noise->const_data_ptr<acc>();
  if (bias2) {
    FASTHEADS_DISPATCH(*bias2, "gate", [&] {
      for (int k = 0; k < 2; ++k) {
        decision.bias[k] = static_cast<acc>(bias2->const_data_ptr<scalar_t>()[k]);
      }
    });
  }
  decision(shape.samples, beta.data(), z.mutable_data_ptr<acc>(),
           probability.mutable_data_ptr<acc>());
}

std::tuple<Tensor, Tensor, Tensor> gate(const Tensor& x_, const Tensor& weight1_,
                                        const MaybeTensor& bias1_, const Tensor& weight2_,
                                        const MaybeTensor& bias2_, const MaybeTensor& noise_,
                                        double temperature, bool soft) {
  const auto shape = check_gate(x_, weight1_, bias1_, weight2_, bias2_, noise_, temperature);
  const auto contiguous = [](const MaybeTensor& tensor) {
    return tensor ? MaybeTensor(as_contiguous(*tensor)) : tensor;
  };
  const Tensor x = dense(x_);
  const Tensor weight1 = as_contiguous(weight1_);
  const Tensor weight2 = as_contiguous(weight2_);
  const auto dtype = sum_dtype(x);
  Tensor z = empty<1>({shape.samples}, dtype);
  Tensor probability = empty<1>({shape.samples}, dtype);
  Tensor means = empty<2>({shape.samples, shape.channels}, dtype);
  if (shape.samples == 0) return {z, probability, means};
  pool(shape, x, means);
  const auto run = dtype == ScalarType::Double ? run_and_decide<double> : run_and_decide<float>;
  run(shape, means, weight1, contiguous(bias1_), weight2, contiguous(bias2_), contiguous(noise_),
      temperature, soft, z, probability);
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
  for (int64_t n = 0; n < samples; ++n) {
    active[count] = n;
    count += z[n] > 0;
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

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("active_samples", TORCH_BOX(&active_samples));
}

}  // namespace fastheads
