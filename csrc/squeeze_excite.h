// squeeze_excite: every channel scaled by a gate that sees the mean of all channels.
//   u = scale x + shift                                  (or x), in place maybe with a batch norm:
//   u = scale (x - running_mean) / sqrt(running_var + eps) + shift
//   mean[n, c] = sum_hw u[n, c, h, w] / HW
//   hidden = inner(W1 mean + b1),  s = gate(W2 hidden + b2)
//   y = act(s u + residual)                              act: relu or nothing
// backward, with g = 0 where y <= 0 behind a ReLU, else (NaN too) grad:
//   grad_logit = gate' sum_hw g u,  grad_hidden = inner' (W2^T grad_logit)
//   grad_x = scale (s g + W1^T grad_hidden / HW),  grad_residual = g
//   grad_W1 = sum_n grad_hidden mean^T,  grad_b1 = sum_n grad_hidden, as for the second layer
#pragma once

#include <optional>

#include "activations.h"

namespace fastheads {

enum class Inner : int64_t { kRelu, kSilu, kIdentity, kHardSwish };
enum class Gate : int64_t { kSigmoid, kHardSigmoid };

struct SqueezeExciteShape {
  int64_t samples;     // N
  int64_t channels;    // C
  int64_t pixels;      // H W
  int64_t hidden;      // R
  bool channels_last;  // x is read as [N, H W, C], else as [N, C, H W]
};

// What the operator that writes y over x asks of x and of what it reads meanwhile.
inline void check_squeeze_excite_in_place(const Tensor& x, const std::optional<Tensor>& residual) {
  STD_TORCH_CHECK(x.is_contiguous() || channels_innermost(x),
                  "squeeze_excite_: x must be contiguous or channels-last, got other strides");
  if (residual) check_no_partial_overlap("squeeze_excite_", "residual", *residual, x);
}

// The tensor is [rows, columns], maybe as the weight of a 1x1 convolution, or [rows] where columns
// are left out.
inline void check_squeeze_excite_parameter(const char* name, const Tensor& tensor, const Tensor& x,
                                           int64_t rows, int64_t columns = -1) {
  const bool matrix = columns >= 0;
  const bool pointwise = matrix && tensor.dim() == 4 && tensor.size(2) == 1 && tensor.size(3) == 1;
  const bool fits = (pointwise || tensor.dim() == (matrix ? 2 : 1)) && tensor.size(0) == rows &&
                    (!matrix || tensor.size(1) == columns);
  if (matrix) {
    STD_TORCH_CHECK(fits, "squeeze_excite: ", name, " must be [", rows, ", ", columns, "], got ",
                    tensor.dim(), " dimensions or other sizes");
  } else {
    STD_TORCH_CHECK(fits, "squeeze_excite: ", name, " must be [", rows, "], got ", tensor.dim(),
                    " dimensions or another size");
  }
  const auto dtype = tensor.scalar_type(), sum_type = sum_dtype(x);
  STD_TORCH_CHECK(dtype == x.scalar_type() || dtype == sum_type, "squeeze_excite: ", name,
                  " must be ", torch::headeronly::toString(x.scalar_type()), " as x",
                  sum_type == x.scalar_type() ? "" : " or Float", ", got ",
                  torch::headeronly::toString(dtype));
  check_device("squeeze_excite", name, tensor, "x", x);
}

inline void check_squeeze_excite_map(const char* name, const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.sizes().equals(x.sizes()), "squeeze_excite: ", name,
                  " must have the shape of x, got ", tensor.dim(), " dimensions or other sizes");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), "squeeze_excite: ", name, " must be ",
                  torch::headeronly::toString(x.scalar_type()), " as x, got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  check_device("squeeze_excite", name, tensor, "x", x);
}

// The parts that forward and backward share.
inline SqueezeExciteShape check_squeeze_excite(
    const Tensor& x, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate) {
  STD_TORCH_CHECK(x.dim() == 4, "squeeze_excite: x must be [N, C, H, W], got ", x.dim(),
                  " dimensions");
  check_floating("squeeze_excite", "x", x);
  STD_TORCH_CHECK(weight1.dim() == 2 || weight1.dim() == 4,
                  "squeeze_excite: weight1 must be [R, C] or [R, C, 1, 1], got ", weight1.dim(),
                  " dimensions");
  const int64_t channels = x.size(1), hidden = weight1.size(0);
  check_squeeze_excite_parameter("weight1", weight1, x, hidden, channels);
  check_squeeze_excite_parameter("weight2", weight2, x, channels, hidden);
  STD_TORCH_CHECK(weight2.scalar_type() == weight1.scalar_type(),
                  "squeeze_excite: weight2 must be ",
                  torch::headeronly::toString(weight1.scalar_type()), " as weight1, got ",
                  torch::headeronly::toString(weight2.scalar_type()));
  if (bias1) check_squeeze_excite_parameter("bias1", *bias1, x, hidden);
  if (bias2) check_squeeze_excite_parameter("bias2", *bias2, x, channels);
  if (scale) check_squeeze_excite_parameter("scale", *scale, x, channels);
  if (shift) check_squeeze_excite_parameter("shift", *shift, x, channels);
  STD_TORCH_CHECK(inner >= 0 && inner <= 3,
                  "squeeze_excite: inner must be 0 (relu), 1 (silu), 2 (identity) or 3 "
                  "(hard_swish), got ",
                  inner);
  STD_TORCH_CHECK(gate == 0 || gate == 1,
                  "squeeze_excite: gate must be 0 (sigmoid) or 1 (hard_sigmoid), got ", gate);
  return {x.size(0), channels, x.size(2) * x.size(3), hidden, channels_innermost(x)};
}

// The norm that the operator in place computes, if there are statistics of one.
inline void check_squeeze_excite_norm(const Tensor& x, const std::optional<Tensor>& scale,
                                      const std::optional<Tensor>& shift,
                                      const std::optional<Tensor>& mean,
                                      const std::optional<Tensor>& var) {
  STD_TORCH_CHECK(x.dim() == 4, "squeeze_excite: x must be [N, C, H, W], got ", x.dim(),
                  " dimensions");
  check_floating("squeeze_excite", "x", x);
  STD_TORCH_CHECK(mean.has_value() == var.has_value(),
                  "squeeze_excite: running_mean and running_var must both be given, got one");
  if (scale) check_squeeze_excite_parameter("scale", *scale, x, x.size(1));
  if (shift) check_squeeze_excite_parameter("shift", *shift, x, x.size(1));
  if (mean) check_squeeze_excite_parameter("running_mean", *mean, x, x.size(1));
  if (var) check_squeeze_excite_parameter("running_var", *var, x, x.size(1));
}

inline SqueezeExciteShape check_squeeze_excite_backward(
    const Tensor& grad, const Tensor& x, const std::optional<Tensor>& y, const Tensor& mean,
    const Tensor& s, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate) {
  const auto shape =
      check_squeeze_excite(x, weight1, bias1, weight2, bias2, scale, shift, inner, gate);
  check_squeeze_excite_map("grad", grad, x);
  if (y) check_squeeze_excite_map("y", *y, x);
  for (const auto& [name, tensor] : {std::pair("mean", mean), std::pair("s", s)}) {
    check_squeeze_excite_parameter(name, tensor, x, shape.samples, shape.channels);
    STD_TORCH_CHECK(tensor.scalar_type() == sum_dtype(x), "squeeze_excite: ", name, " must be ",
                    torch::headeronly::toString(sum_dtype(x)), ", got ",
                    torch::headeronly::toString(tensor.scalar_type()));
  }
  return shape;
}

}  // namespace fastheads
