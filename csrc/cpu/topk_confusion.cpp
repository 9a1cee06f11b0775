// The K best labels of each row on the CPU; the counts are in topk_confusion_counts.cpp.
#include "../topk_confusion.h"

#include <algorithm>
#include <memory>

#include "dispatch.h"
#include "topk_rows.h"

namespace fastheads {
namespace {

SelectRows* select_rows_here() {
#ifdef __x86_64__
  if (isa_here() == Isa::kAvx512) return select_rows_avx512;
  if (isa_here() == Isa::kAvx2) return select_rows_avx2;
#endif
  return select_rows_plain;
}

Tensor topk_indices(const Tensor& scores_, int64_t k) {
  const auto [rows, labels, k_] = check_topk_indices(scores_, k);
  const bool rows_in_place = scores_.stride(1) == 1 && scores_.stride(0) >= labels;
  const Tensor scores = rows_in_place ? scores_ : torch::stable::contiguous(scores_);
  Tensor top = torch::stable::new_empty(scores, {rows, k}, ScalarType::Long);
  if (rows == 0) return top;

  static SelectRows* const select_rows = select_rows_here();
  // 2048 candidates fit the first-level cache with their labels.
  const int64_t capacity = std::min(std::max<int64_t>(2048, 6 * k), labels);
  const TopkRows shape{labels, k, scores.stride(0), capacity};
  const auto format = format_of(scores.scalar_type());
  const void* data = scores.const_data_ptr();
  int64_t* out = top.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 32768 / labels);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t places = capacity + 2 * kBlock;
    const auto keys = std::make_unique_for_overwrite<int64_t[]>(places);
    const auto buffer = std::make_unique_for_overwrite<uint32_t[]>(places);
    const auto order = std::make_unique_for_overwrite<uint32_t[]>(std::max(capacity, k));
    select_rows(format, data, shape, begin, end, {keys.get(), buffer.get(), order.get()}, out);
  });
  return top;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("topk_indices", TORCH_BOX(&topk_indices));
}

}  // namespace fastheads
