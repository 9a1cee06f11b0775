// topk_confusion: the K best labels of each row, and exact counts of which labels meet.
//   M[n, i] = 1 if label i is among the top K of row n, g[n, j] = 1 if row n is annotated with j
//   confusion:    counts[i, j] += sum_n M[n, i] g[n, j]
//   co-detection: counts[i, j] += sum_n M[n, i] M[n, j]  for i <= j
#pragma once

#include "common.h"

namespace fastheads {

constexpr int64_t kMaxLabels = int64_t(1) << 30;  // labels travel as 32 bits, with room for a step

struct TopkShape {
  int64_t rows;    // N
  int64_t labels;  // L
  int64_t k;       // K
};

inline TopkShape check_topk_indices(const Tensor& scores, int64_t k) {
  STD_TORCH_CHECK(scores.dim() == 2, "topk_indices: scores must be [N, L], got ", scores.dim(),
                  " dimensions");
  const auto dtype = scores.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                      dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "topk_indices: scores must be float32, float64, float16 or bfloat16, got ",
                  torch::headeronly::toString(dtype));
  const int64_t labels = scores.size(1);
  STD_TORCH_CHECK(labels <= kMaxLabels, "topk_indices: scores must have at most ", kMaxLabels,
                  " labels, got ", labels);
  STD_TORCH_CHECK(k >= 1 && k <= labels, "topk_indices: k must be between 1 and the ", labels,
                  " labels of scores, got ", k);
  return {scores.size(0), labels, k};
}

inline TopkShape check_counts(const char* op, const Tensor& counts, const Tensor& top) {
  STD_TORCH_CHECK(counts.dim() == 2 && counts.size(0) == counts.size(1), op,
                  ": counts must be [L, L], got ", counts.dim(), " dimensions or unequal sizes");
  const auto dtype = counts.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Int || dtype == ScalarType::Long, op,
                  ": counts must be int32 or int64, got ", torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(counts.is_contiguous(), op, ": counts must be contiguous, got strides ",
                  counts.stride(0), ", ", counts.stride(1));
  STD_TORCH_CHECK(top.dim() == 2, op, ": top must be [N, K], got ", top.dim(), " dimensions");
  STD_TORCH_CHECK(top.scalar_type() == ScalarType::Long, op, ": top must be int64, got ",
                  torch::headeronly::toString(top.scalar_type()));
  STD_TORCH_CHECK(top.device() == counts.device(), op, ": top must be on the device of counts");
  STD_TORCH_CHECK(counts.size(0) <= kMaxLabels, op, ": counts must have at most ", kMaxLabels,
                  " labels, got ", counts.size(0));
  return {top.size(0), counts.size(0), top.size(1)};
}

inline TopkShape check_topk_co_detection(const Tensor& counts, const Tensor& top) {
  return check_counts("topk_co_detection_", counts, top);
}

inline TopkShape check_topk_confusion(const Tensor& counts, const Tensor& top,
                                      const Tensor& indices, const Tensor& offsets) {
  const auto shape = check_counts("topk_confusion_", counts, top);
  STD_TORCH_CHECK(indices.dim() == 1 && indices.scalar_type() == ScalarType::Long,
                  "topk_confusion_: indices must be [nonzeros] int64, got ", indices.dim(),
                  " dimensions of ", torch::headeronly::toString(indices.scalar_type()));
  STD_TORCH_CHECK(offsets.dim() == 1 && offsets.scalar_type() == ScalarType::Long,
                  "topk_confusion_: offsets must be [N + 1] int64, got ", offsets.dim(),
                  " dimensions of ", torch::headeronly::toString(offsets.scalar_type()));
  STD_TORCH_CHECK(offsets.size(0) == shape.rows + 1, "topk_confusion_: offsets must have ",
                  shape.rows + 1, " entries, one more than the rows of top, got ", offsets.size(0));
  STD_TORCH_CHECK(indices.device() == counts.device() && offsets.device() == counts.device(),
                  "topk_confusion_: indices and offsets must be on the device of counts");
  return shape;
}

[[noreturn]] inline void reject_label(const char* op, const char* name, int64_t row, int64_t label,
                                      int64_t labels) {
  STD_TORCH_CHECK(false, op, ": ", name, " must hold labels from 0 to ", labels - 1, ", got ",
                  label, " in row ", row);
  __builtin_unreachable();
}

[[noreturn]] inline void reject_offsets(int64_t row, int64_t begin, int64_t end, int64_t nonzeros) {
  STD_TORCH_CHECK(false, "topk_confusion_: offsets must ascend from 0 to the ", nonzeros,
                  " entries of indices, got ", begin, " to ", end, " for row ", row);
  __builtin_unreachable();
}

}  // namespace fastheads
