// The K best labels of each row on CUDA, one block a row. A sample gives a bound, one streaming
// pass collects the few scores above it, and a sort of those is the answer. Where the bound was
// wrong (too few or too many candidates: heavy ties) an exact radix selection over the row takes
// its place.
#include <algorithm>

#include "../topk_confusion.h"
#include "common.cuh"
#include "topk_select.cuh"

namespace fastheads {
namespace {

constexpr int64_t kMaxBlocks = 1024;  // with work space of their own in global memory

// scores: [N, L] with rows `stride` apart; workspace: [gridDim, padded] or null; top: [N, K]
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 2)
    topk_kernel(TopkShape shape, const scalar_t* scores, int64_t stride,
                typename Key<scalar_t>::packed_t* workspace, int64_t padded, int64_t* top) {
  using packed_t = typename Key<scalar_t>::packed_t;
  constexpr int kCapacity = Candidates<scalar_t>::kCapacity;
  __shared__ Candidates<scalar_t> candidates;
  __shared__ Scratch scratch;
  const int k = static_cast<int>(shape.k), labels = static_cast<int>(shape.labels);
  packed_t* list =
      workspace != nullptr ? workspace + int64_t(blockIdx.x) * padded : candidates.packed;

  for (int64_t n = blockIdx.x; n < shape.rows; n += gridDim.x) {
    const scalar_t* row = scores + n * stride;
    const auto key_at = [row](int label) { return Key<scalar_t>::of(row[label]); };
    int found = labels;
    if (labels <= kCapacity) {
      for (int label = threadIdx.x; label < labels; label += kThreads) {
        list[label] = Key<scalar_t>::pack(key_at(label), label);
      }
    } else {
      found = k <= kCapacity / 4 ? collect_above_sample<scalar_t>(row, labels, list, scratch) : 0;
      if (found < k || found > kCapacity) {
        const auto [key, ties] = kth_key<typename Key<scalar_t>::key_t>(labels, k, key_at, scratch);
        collect_exact<scalar_t>(row, labels, k, key, ties, list, scratch);
        found = k;
      }
    }
    __syncthreads();
    sort_descending(list, found);
    for (int i = threadIdx.x; i < k; i += kThreads) {
      top[n * k + i] = Key<scalar_t>::label(list[i]);
    }
    __syncthreads();  // the list is used again
  }
}

template <typename scalar_t>
void launch(const TopkShape& shape, const Tensor& scores, Tensor& top) {
  using packed_t = typename Key<scalar_t>::packed_t;
  int64_t blocks = std::min<int64_t>(shape.rows, 1 << 30);
  int64_t padded = 0;
  Tensor workspace = top;  // any tensor: read only where the list does not fit shared memory
  packed_t* lists = nullptr;
  if (shape.k > Candidates<scalar_t>::kCapacity) {
    for (padded = 1; padded < shape.k;) padded *= 2;
    blocks = std::min(blocks, kMaxBlocks);
    const auto bytes = static_cast<int64_t>(blocks * padded * sizeof(packed_t));
    workspace = torch::stable::new_empty(scores, {bytes}, ScalarType::Byte);
    lists = static_cast<packed_t*>(workspace.mutable_data_ptr());
  }
  topk_kernel<scalar_t><<<static_cast<unsigned>(blocks), kThreads, 0, current_stream(top)>>>(
      shape, scores.const_data_ptr<scalar_t>(), scores.stride(0), lists, padded,
      top.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor topk_indices(const Tensor& scores_, int64_t k) {
  const auto shape = check_topk_indices(scores_, k);
  const torch::stable::accelerator::DeviceGuard guard(scores_.get_device_index());
  const bool rows_in_place = scores_.stride(1) == 1 && scores_.stride(0) >= shape.labels;
  const Tensor scores = rows_in_place ? scores_ : torch::stable::contiguous(scores_);
  Tensor top = torch::stable::new_empty(scores, {shape.rows, k}, ScalarType::Long);
  if (shape.rows == 0) return top;
  FASTHEADS_DISPATCH(scores, "topk_indices", [&] { launch<scalar_t>(shape, scores, top); });
  return top;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("topk_indices", TORCH_BOX(&topk_indices));
}

}  // namespace fastheads
