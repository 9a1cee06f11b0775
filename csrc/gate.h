// gate: which residual block runs for which sample.
//   m[n, c]  = mean over H, W of x[n, c]
//   beta[n]  = W2 relu(W1 m[n] + b1) + b2 + noise[n]          [skip, execute]
//   probability[n] = 1 / (1 + exp((beta[n, 0] - beta[n, 1]) / temperature))
//   z[n] = probability[n] if soft, else 1 where beta[n, 1] >= beta[n, 0], else 0
#pragma once

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

inline void check_gate_bias(const char* name, const std::optional<Tensor>& bias,
                            const Tensor& weight) {
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), "gate: ", name, " must be [",
                  weight.size(0), "], got ", bias->dim(), " dimensions or another size");
  check_dtype("gate", name, *bias, weight.scalar_type());
  check_device("gate", name, *bias, "x", weight);
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

inline GateShape check_gate(const Tensor& x, const Tensor& weight1,
                            const std::optional<Tensor>& bias1, const Tensor& weight2,
                            const std::optional<Tensor>& bias2, const std::optional<Tensor>& noise,
                            double temperature) {
  STD_TORCH_CHECK(x.dim() == 4 || x.dim() == 2, "gate: x must be [N, C, H, W] or [N, C], got ",
                  x.dim(), " dimensions");
  check_floating("gate", "x", x);
  const int64_t samples = x.size(0), pixels = x.dim() == 4 ? x.size(2) * x.size(3) : 1;
  STD_TORCH_CHECK(pixels > 0, "gate: x must have pixels to average, got 0");
  check_gate_weights(x, weight1, weight2);
  check_gate_bias("bias1", bias1, weight1);
  check_gate_bias("bias2", bias2, weight2);
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
