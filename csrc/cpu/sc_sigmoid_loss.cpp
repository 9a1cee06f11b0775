// sc_sigmoid_loss on the CPU: threads share the columns of blocks of rows.
#include "../sc_sigmoid_loss.h"

#include <algorithm>
#include <tuple>

#include "dispatch.h"
#include "sc_sigmoid_loss_segment.h"
#include "targets.h"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

ScSigmoidLossSegment* segment_here() {
#ifdef __x86_64__
  if (isa_here() == Isa::kAvx512) return sc_sigmoid_loss_avx512;
  if (isa_here() == Isa::kAvx2) return sc_sigmoid_loss_avx2;
#endif
  return sc_sigmoid_loss_plain;
}

void check_groups(const ScSigmoidLossShape& shape, const int64_t* groups) {
  for (int64_t g = 0; g < shape.groups; ++g) {
    STD_TORCH_CHECK(groups[g] <= groups[g + 1], "sc_sigmoid_loss: out_offsets must ascend, got ",
                    groups[g + 1], " after ", groups[g], " at ", g + 1);
  }
  STD_TORCH_CHECK(groups[shape.groups] - groups[0] == shape.columns,
                  "sc_sigmoid_loss: out_offsets must span the ", shape.columns,
                  " columns of logits, got ", groups[0], " to ", groups[shape.groups]);
}

// The address of an element of a vector, null for one that is left out.
template <typename T>
T* at(T* begin, int64_t element, int64_t size) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return begin == nullptr ? nullptr : static_cast<T*>(static_cast<Byte*>(begin) + element * size);
}

std::tuple<Tensor, Tensor, Tensor> sc_sigmoid_loss_logits_(
    Tensor logits, const Tensor& indices_, const Tensor& offsets_, const MaybeTensor& values_,
    const Tensor& out_offsets_, int64_t labels, const MaybeTensor& gamma_,
    const MaybeTensor& label_bias_, const MaybeTensor& label_weights_, bool gamma_per_label,
    bool normalize, bool with_loss, bool with_grad, double scale, bool gamma_columns,
    bool bias_columns) {
  const auto shape =
      check_sc_sigmoid_loss_logits(logits, indices_, offsets_, values_, out_offsets_, labels,
                                   gamma_, label_bias_, label_weights_, gamma_per_label);
  const Tensor indices = as_contiguous(indices_), offsets = as_contiguous(offsets_);
  const Tensor out_offsets = as_contiguous(out_offsets_);
  const auto* labels_of = indices.const_data_ptr<int64_t>();
  const auto* entries = offsets.const_data_ptr<int64_t>();
  const auto* groups = out_offsets.const_data_ptr<int64_t>();
  check_groups(shape, groups);
  check_targets("sc_sigmoid_loss", shape.rows, shape.labels, labels_of, indices.numel(), entries);

  const int64_t block = gamma_columns || bias_columns ? kRowBlock : 1;
  const int64_t blocks = (shape.rows + block - 1) / block;
  const auto like = torch::stable::new_empty(logits, {0}, sum_dtype(logits));
  Tensor sums = torch::stable::new_zeros(logits, {2, shape.rows, shape.groups}, ScalarType::Double);
  Tensor gammas = torch::stable::new_zeros(like, {gamma_columns ? blocks : 0, shape.columns});
  Tensor biases = torch::stable::new_zeros(like, {bias_columns ? blocks : 0, shape.columns});
  if (shape.rows == 0 || shape.columns == 0) return {sums, gammas, biases};

  // Contiguous copies live as long as they are read.
  const auto contiguous = [](const MaybeTensor& t) {
    return t ? MaybeTensor(as_contiguous(*t)) : t;
  };
  const MaybeTensor values = contiguous(values_), gamma = contiguous(gamma_),
                    label_bias = contiguous(label_bias_),
                    label_weights = contiguous(label_weights_);
  const auto data = [](const MaybeTensor& t) { return t ? t->const_data_ptr() : nullptr; };
  const void *value = data(values), *gamma_data = data(gamma), *bias = data(label_bias),
             *weights = data(label_weights);
  void* gamma_sums = gamma_columns ? gammas.mutable_data_ptr() : nullptr;
  void* bias_sums = bias_columns ? biases.mutable_data_ptr() : nullptr;
  auto* loss = sums.mutable_data_ptr<double>();
  double* gamma_grads = loss + shape.rows * shape.groups;
  const int64_t item = static_cast<int64_t>(logits.element_size());
  const int64_t wide = static_cast<int64_t>(like.element_size());
  const auto format = format_of(logits.scalar_type());
  static ScSigmoidLossSegment* const segment = segment_here();

  const auto run = [&](int64_t row, int64_t g) {
    const int64_t column = groups[g] - groups[0];
    const auto* first =
        std::lower_bound(labels_of + entries[row], labels_of + entries[row + 1], groups[g]);
    const auto* last = std::lower_bound(first, labels_of + entries[row + 1], groups[g + 1]);
    const int64_t sums_at = row / block * shape.columns + column;
    const auto done = segment(
        format,
        {at(logits.mutable_data_ptr(), row * shape.pitch + column, item), groups[g + 1] - groups[g],
         first, last - first, groups[g], at(value, first - labels_of, wide),
         at(gamma_data, gamma_per_label ? column : g, wide), at(bias, column, wide),
         at(weights, column, wide), at(gamma_sums, sums_at, wide), at(bias_sums, sums_at, wide),
         scale, gamma_per_label, normalize, with_loss, with_grad});
    loss[row * shape.groups + g] = done.loss;
    gamma_grads[row * shape.groups + g] = done.gamma;
  };
  // A thread takes the groups that begin in its share of the columns of all blocks of rows.
  const int64_t grain = std::max<int64_t>(1, 16384 / block);
  torch::stable::parallel_for(0, blocks * shape.columns, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin / shape.columns; b * shape.columns < end; ++b) {
      const int64_t from = std::max<int64_t>(0, begin - b * shape.columns) + groups[0];
      const int64_t to = std::min(shape.columns, end - b * shape.columns) + groups[0];
      int64_t g = std::lower_bound(groups, groups + shape.groups, from) - groups;
      for (; g < shape.groups && groups[g] < to; ++g) {
        if (groups[g] == groups[g + 1]) continue;
        for (int64_t row = b * block; row < std::min(shape.rows, (b + 1) * block); ++row) {
          run(row, g);
        }
      }
    }
  });
  return {sums, gammas, biases};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("sc_sigmoid_loss_logits_", TORCH_BOX(&sc_sigmoid_loss_logits_));
}

}  // namespace fastheads
