// sc_sigmoid_loss: sigmoid cross-entropy of logits that are normalised within groups of labels. For
// a row and a group with logits l, n = |l|_2 (or 1), x_j = l_j / n, z_j = gamma_j x_j + bias_j:
//   loss = sum_j w_j (softplus(z_j) - y_j z_j),   g_j = w_j (sigmoid(z_j) - y_j),
//   dl_j = (gamma_j g_j - x_j sum_i gamma_i g_i x_i) / n   (without the sum if not normalised),
//   dgamma_j = g_j x_j,   dbias_j = g_j.
// A norm below the smallest normal number counts as 0: then x = 0 and dl = 0. A logit of -inf, as a
// label is masked with, which is not normalised, adds nothing to any sum but that of its target.
#pragma once

#include "activations.h"

namespace fastheads {

// Gradients of what every row shares are sums over this many rows, in their order.
constexpr int64_t kRowBlock = 16;

struct ScSigmoidLossShape {
  int64_t rows;     // B
  int64_t columns;  // of the logits: the labels of all groups
  int64_t groups;   // M
  int64_t pitch;    // of a row of logits
  int64_t labels;   // N: targets may lie outside the groups
};

inline ScSigmoidLossShape check_sc_sigmoid_loss_logits(
    const Tensor& logits, const Tensor& indices, const Tensor& offsets,
    const std::optional<Tensor>& values, const Tensor& out_offsets, int64_t labels,
    const std::optional<Tensor>& gamma, const std::optional<Tensor>& label_bias,
    const std::optional<Tensor>& label_weights, bool gamma_per_label) {
  constexpr const char* op = "sc_sigmoid_loss";
  STD_TORCH_CHECK(logits.dim() == 2, op, ": logits must be [B, N], got ", logits.dim(),
                  " dimensions");
  check_floating(op, "logits", logits);
  const int64_t rows = logits.size(0), columns = logits.size(1), groups = out_offsets.numel() - 1;
  STD_TORCH_CHECK(columns < int64_t(1) << 30, op, ": logits must have less than 2^30 columns, got ",
                  columns);
  STD_TORCH_CHECK(columns <= 1 || (logits.stride(1) == 1 && logits.stride(0) >= columns), op,
                  ": logits must have rows of unit stride that do not overlap, got strides ",
                  logits.stride(0), ", ", logits.stride(1));
  const auto check_vector = [&](const char* name, const Tensor& tensor, int64_t size) {
    STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == size, op, ": ", name, " must be [", size,
                    "], got ", tensor.dim(), " dimensions of ", tensor.numel(), " entries");
    check_device(op, name, tensor, "logits", logits);
  };
  check_vector("indices", indices, indices.numel());
  check_dtype(op, "indices", indices, ScalarType::Long);
  check_vector("offsets", offsets, rows + 1);
  check_dtype(op, "offsets", offsets, ScalarType::Long);
  STD_TORCH_CHECK(groups >= 0, op, ": out_offsets must be [M + 1], got no entries");
  check_vector("out_offsets", out_offsets, groups + 1);
  check_dtype(op, "out_offsets", out_offsets, ScalarType::Long);
  const auto check_parameter = [&](const char* name, const std::optional<Tensor>& tensor,
                                   int64_t size) {
    if (!tensor) return;
    check_vector(name, *tensor, size);
    check_dtype(op, name, *tensor, sum_dtype(logits));
  };
  check_parameter("values", values, indices.numel());
  check_parameter("gamma", gamma, gamma_per_label ? columns : groups);
  check_parameter("label_bias", label_bias, columns);
  check_parameter("label_weights", label_weights, columns);
  STD_TORCH_CHECK(labels >= columns, op, ": labels must be at least the ", columns,
                  " columns of logits, got ", labels);
  return {rows, columns, groups, rows > 1 ? logits.stride(0) : columns, labels};
}

}  // namespace fastheads
