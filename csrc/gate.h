// gate: which residual block runs for which sample.
//   m[n, c]  = mean over H, W of x[n, c]
//   beta[n]  = W2 relu(norm(W1 m[n] + b1)) + b2 + noise[n]    [skip, execute]
//   norm(h)  = (h - running_mean) / sqrt(running_var + eps) * norm_weight + norm_bias, or h
//   probability[n] = 1 / (1 + exp((beta[n, 0] - beta[n, 1]) / temperature))
//   z[n] = probability[n] if soft or NaN, else 1 where beta[n, 1] >= beta[n, 0], else 0
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <array>
#include <cmath>
#include <optional>

#include "activations.h"

namespace fastheads {

struct GateShape {
  int64_t samples;   // N
  int64_t channels;  // C
  int64_t pixels;    // H W, 1 for means
  int64_t hidden;    // d
};

// The batch norm of the hidden units: running mean and variance, weight and bias, all [d]. Without
// the first two there is none.
using GateNorm = std::array<std::optional<Tensor>, 4>;

// What follows the product of W1 and the means: bias and norm of unit j are scale(j) * product +
// shift(j).
template <typename weight_t>
struct GateUnits {
  using acc = acc_t<weight_t>;
  const weight_t* bias1;     // [d] or null
  const weight_t* mean;      // [d] or null: no norm
  const weight_t* variance;  // [d] if mean is
  const weight_t* weight;    // [d] or null
  const weight_t* bias;      // [d] or null
  acc eps;

  C10_HOST_DEVICE acc scale(int64_t j) const {
    if (mean == nullptr) return 1;
    return at(weight, j, 1) / std::sqrt(static_cast<acc>(variance[j]) + eps);
  }
  C10_HOST_DEVICE acc shift(int64_t j, acc scale) const {
    return (at(bias1, j, 0) - at(mean, j, 0)) * scale + at(bias, j, 0);
  }
  C10_HOST_DEVICE static acc at(const weight_t* from, int64_t j, acc otherwise) {
    return from != nullptr ? static_cast<acc>(from[j]) : otherwise;
  }
};

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(as_contiguous(*tensor)) : tensor;
}

inline GateNorm contiguous(const GateNorm& norm) {
  return {contiguous(norm[0]), contiguous(norm[1]), contiguous(norm[2]), contiguous(norm[3])};
}

template <typename scalar_t>
const scalar_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<scalar_t>() : nullptr;
}

template <typename weight_t>
GateUnits<weight_t> gate_units(const std::optional<Tensor>& bias1, const GateNorm& norm,
                               double eps) {
  return {data_or_null<weight_t>(bias1),   data_or_null<weight_t>(norm[0]),
          data_or_null<weight_t>(norm[1]), data_or_null<weight_t>(norm[2]),
          data_or_null<weight_t>(norm[3]), static_cast<acc_t<weight_t>>(eps)};
}

inline void check_gate_vector(const char* name, const std::optional<Tensor>& vector,
                              const Tensor& weight) {
  if (!vector) return;
  STD_TORCH_CHECK(vector->dim() == 1 && vector->size(0) == weight.size(0), "gate: ", name,
                  " must be [", weight.size(0), "], got ", vector->dim(),
                  " dimensions or another size");
  check_dtype("gate", name, *vector, weight.scalar_type());
  check_device("gate", name, *vector, "x", weight);
}

inline void check_gate_weights(const Tensor& x, const Tensor& weight1, const Tensor& weight2) {
  STD_TORCH_CHECK(weight1.dim() == 2 && weight1.size(1) == x.size(1), "gate: weight1 must be [d, ",
                  x.size(1), "], got ", weight1.dim(), " dimensions or another width");
  STD_TORCH_CHECK(weight2.dim() == 2 && weight2.size(0) == 2 && weight2.size(1) == weight1.size(0),
                  "gate: weight2 must be [2, ", weight1.size(0), "], got ", weight2.dim(),
                  " dimensions or other sizes");
  check_floating("gate", "weight1", weight1);
  STD_TORCH_CHECK(sum_dtype(weight1) == sum_dtype(x),
                  "gate: weight1 must be Double if and only if x is, got ",
                  torch::headeronly::toString(weight1.scalar_type()), " with ",
                  torch::headeronly::toString(x.scalar_type()));
  check_dtype("gate", "weight2", weight2, weight1.scalar_type());
  check_device("gate", "weight1", weight1, "x", x);
  check_device("gate", "weight2", weight2, "x", x);
}

inline void check_gate_norm(const GateNorm& norm, double eps, const Tensor& weight1) {
  STD_TORCH_CHECK(norm[0].has_value() == norm[1].has_value(),
                  "gate: running_mean and running_var must be given together, got one of them");
  STD_TORCH_CHECK(norm[0] || !(norm[2] || norm[3]),
                  "gate: norm_weight and norm_bias need running_mean and running_var, got none");
  STD_TORCH_CHECK(eps >= 0, "gate: eps must be at least 0, got ", eps);
  constexpr const char* names[] = {"running_mean", "running_var", "norm_weight", "norm_bias"};
  for (int i = 0; i < 4; ++i) check_gate_vector(names[i], norm[i], weight1);
}

inline GateShape check_gate(const Tensor& x, const Tensor& weight1,
                            const std::optional<Tensor>& bias1, const Tensor& weight2,
                            const std::optional<Tensor>& bias2, const std::optional<Tensor>& noise,
                            double temperature, const GateNorm& norm, double eps) {
  STD_TORCH_CHECK(x.dim() == 4 || x.dim() == 2, "gate: x must be [N, C, H, W] or [N, C], got ",
                  x.dim(), " dimensions");
  check_floating("gate", "x", x);
  const int64_t samples = x.size(0), pixels = x.dim() == 4 ? x.size(2) * x.size(3) : 1;
  STD_TORCH_CHECK(pixels > 0, "gate: x must have pixels to average, got 0");
  check_gate_weights(x, weight1, weight2);
  check_gate_vector("bias1", bias1, weight1);
  check_gate_vector("bias2", bias2, weight2);
  check_gate_norm(norm, eps, weight1);
  if (noise) {
    STD_TORCH_CHECK(noise->dim() == 2 && noise->size(0) == samples && noise->size(1) == 2,
                    "gate: noise must be [", samples, ", 2], got ", noise->dim(),
                    " dimensions or other sizes");
    check_dtype("gate", "noise", *noise, sum_dtype(x));
    check_device("gate", "noise", *noise, "x", x);
  }
  STD_TORCH_CHECK(temperature > 0 && std::isfinite(temperature),
                  "gate: temperature must be positive and finite, got ", temperature);
  return {samples, x.size(1), pixels, weight1.size(0)};
}

inline void check_active_samples(const Tensor& z) {
  STD_TORCH_CHECK(z.dim() == 1, "active_samples: z must be [N], got ", z.dim(), " dimensions");
  STD_TORCH_CHECK(z.scalar_type() == ScalarType::Float || z.scalar_type() == ScalarType::Double,
                  "active_samples: z must be Float or Double, got ",
                  torch::headeronly::toString(z.scalar_type()));
}

}  // namespace fastheads
