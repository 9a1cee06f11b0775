// multilabel_margin on the CPU: threads share the rows.
#include "../multilabel_margin.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "dispatch.h"
#include "multilabel_margin_row.h"
#include "targets.h"

namespace fastheads {
namespace {

constexpr int64_t kStreamBytes = 16 << 20;  // of a gradient that the caches would not keep
constexpr int64_t kLine = 64;

MultilabelMarginRow* row_here() {
#ifdef __x86_64__
  if (isa_here() == Isa::kAvx512) return multilabel_margin_avx512;
  if (isa_here() == Isa::kAvx2) return multilabel_margin_avx2;
#endif
  return multilabel_margin_plain;
}

// Whether the gradient does better not to pass through the caches, and has aligned rows.
bool streams(const MultilabelMarginShape& shape, const Tensor& grad) {
  const int64_t row = shape.labels * int64_t(sizeof(float));
  return grad.scalar_type() == ScalarType::Float && shape.rows * row >= kStreamBytes &&
         row % kLine == 0 && reinterpret_cast<uintptr_t>(grad.const_data_ptr()) % kLine == 0;
}

// factors: [N] and grad: [N, L], or null
Tensor losses(const MultilabelMarginShape& shape, const Tensor& logits_, const Tensor& indices_,
              const Tensor& offsets_, const double* factors, Tensor* grad) {
  const Tensor logits = with_unit_stride(logits_);
  const Tensor indices = as_contiguous(indices_), offsets = as_contiguous(offsets_);
  const auto* labels = indices.const_data_ptr<int64_t>();
  const auto* entries = offsets.const_data_ptr<int64_t>();
  check_targets("multilabel_margin", shape.rows, shape.labels, labels, indices.numel(), entries);
  Tensor loss = empty<1>({shape.rows}, ScalarType::Double);
  if (shape.rows == 0) return loss;

  auto* sums = loss.mutable_data_ptr<double>();
  const auto* x = static_cast<const char*>(logits.const_data_ptr());
  auto* g = grad == nullptr ? nullptr : static_cast<char*>(grad->mutable_data_ptr());
  const int64_t item = static_cast<int64_t>(logits.element_size());
  const int64_t pitch = shape.rows > 1 ? logits.stride(0) : shape.labels;
  const auto format = format_of(logits.scalar_type());
  const bool stream = grad != nullptr && streams(shape, *grad);
  static MultilabelMarginRow* const row_loss = row_here();

  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(shape.labels, 1));
  torch::stable::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t count = entries[row + 1] - entries[row];
      scratch.resize(2 * count);
      sums[row] =
          row_loss(format, {x + row * pitch * item, shape.labels, labels + entries[row], count,
                            scratch.data(), g == nullptr ? nullptr : g + row * shape.labels * item,
                            factors == nullptr ? 0 : factors[row], stream});
    }
  });
  return loss;
}

Tensor multilabel_margin(const Tensor& logits, const Tensor& indices, const Tensor& offsets) {
  const auto shape = check_multilabel_margin(logits, indices, offsets);
  return losses(shape, logits, indices, offsets, nullptr, nullptr);
}

std::tuple<Tensor, Tensor> multilabel_margin_backward(const Tensor& grad_, const Tensor& logits,
                                                      const Tensor& indices,
                                                      const Tensor& offsets) {
  const auto shape = check_multilabel_margin_backward(grad_, logits, indices, offsets);
  const Tensor grad = as_contiguous(grad_);
  Tensor grad_logits = empty<2>({shape.rows, shape.labels}, logits.scalar_type());
  const Tensor loss =
      losses(shape, logits, indices, offsets, grad.const_data_ptr<double>(), &grad_logits);
  return {loss, grad_logits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("multilabel_margin", TORCH_BOX(&multilabel_margin));
  m.impl("multilabel_margin_backward", TORCH_BOX(&multilabel_margin_backward));
}

}  // namespace fastheads
