// multilabel_margin: the hinge over all pairs of a label j of a row and a label i that is none of
// its, and its gradient g times:
//   loss = sum_j sum_i h_ij,  h_ij = max(0, 1 - x_j + x_i),
//   dx_i = g |{j: h_ij > 0}|,  dx_j = -g |{i: h_ij > 0}|.
#pragma once

#include "activations.h"

namespace fastheads {

struct MultilabelMarginShape {
  int64_t rows;    // N
  int64_t labels;  // L
};

inline MultilabelMarginShape check_multilabel_margin(const Tensor& logits, const Tensor& indices,
                                                     const Tensor& offsets) {
  constexpr const char* op = "multilabel_margin";
  STD_TORCH_CHECK(logits.dim() == 2, op, ": logits must be [N, L], got ", logits.dim(),
                  " dimensions");
  check_floating(op, "logits", logits);
  const int64_t rows = logits.size(0), labels = logits.size(1);
  STD_TORCH_CHECK(labels < int64_t(1) << 30, op, ": logits must have less than 2^30 columns, got ",
                  labels);
  STD_TORCH_CHECK(indices.dim() == 1, op, ": indices must be [nonzeros], got ", indices.dim(),
                  " dimensions");
  check_dtype(op, "indices", indices, ScalarType::Long);
  check_device(op, "indices", indices, "logits", logits);
  STD_TORCH_CHECK(offsets.dim() == 1 && offsets.size(0) == rows + 1, op,
                  ": offsets of targets must have ", rows + 1,
                  " entries, one more than the rows of logits, got ", offsets.numel());
  check_dtype(op, "offsets", offsets, ScalarType::Long);
  check_device(op, "offsets", offsets, "logits", logits);
  return {rows, labels};
}

inline MultilabelMarginShape check_multilabel_margin_backward(const Tensor& grad,
                                                              const Tensor& logits,
                                                              const Tensor& indices,
                                                              const Tensor& offsets) {
  constexpr const char* op = "multilabel_margin_backward";
  const auto shape = check_multilabel_margin(logits, indices, offsets);
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == shape.rows, op, ": grad must be [", shape.rows,
                  "], got ", grad.dim(), " dimensions or another size");
  check_dtype(op, "grad", grad, ScalarType::Double);
  check_device(op, "grad", grad, "logits", logits);
  return shape;
}

// Rows of unit stride that do not overlap are read in place.
inline Tensor with_unit_stride(const Tensor& x) {
  const bool unit = x.dim() == 2 && x.stride(1) == 1 && x.stride(0) >= x.size(1);
  return unit ? x : as_contiguous(x);
}

}  // namespace fastheads
