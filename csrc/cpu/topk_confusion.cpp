// The K best labels of each row on the CPU; the counts are in topk_confusion_counts.cpp.
#include "../topk_confusion.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "topk_rows.h"

namespace fastheads {
namespace {

// The best for this processor, or less on request, by the variable that PyTorch's own kernels heed.
SelectRows* select_rows_here() {
#ifdef __x86_64__
  const char* set = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string capability = set != nullptr ? set : "avx512";
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  if (avx512 && capability == "avx512") return select_rows_avx512;
  if (__builtin_cpu_supports("avx2") && capability != "default") return select_rows_avx2;
#endif
  return select_rows_plain;
}

FloatFormat format_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return FloatFormat::kFloat64;
    case ScalarType::Half:
      return FloatFormat::kFloat16;
    case ScalarType::BFloat16:
      return FloatFormat::kBFloat16;
    default:
      return FloatFormat::kFloat32;
  }
}

Tensor topk_indices(const Tensor& scores_, int64_t k) {
  const auto [rows, labels, k_] = check_topk_indices(scores_, k);
  const bool rows_in_place = scores_.stride(1) == 1 && scores_.stride(0) >= labels;
  const Tensor scores = rows_in_place ? scores_ : torch::stable::contiguous(scores_);
  Tensor top = torch::stable::new_empty(scores, {rows, k}, ScalarType::Long);
  if (rows == 0) return top;

  static SelectRows* const select_rows = select_rows_here();
  // 2048 candidates fit the first-level cache with their labels.
  const int64_t capacity = std::min(std::max<int64_t>(2048, 4 * k), labels);
  const TopkRows shape{labels, k, scores.stride(0), capacity};
  const auto format = format_of(scores.scalar_type());
  const void* data = scores.const_data_ptr();
  int64_t* out = top.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 32768 / labels);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t places = capacity + 2 * kBlock;
    const auto keys = std::make_unique_for_overwrite<int64_t[]>(places);
    const auto buffer = std::make_unique_for_overwrite<uint32_t[]>(places);
    const auto sorted = std::make_unique_for_overwrite<__int128[]>(k);
    select_rows(format, data, shape, begin, end, {keys.get(), buffer.get(), sorted.get()}, out);
  });
  return top;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("topk_indices", TORCH_BOX(&topk_indices));
}

}  // namespace fastheads
