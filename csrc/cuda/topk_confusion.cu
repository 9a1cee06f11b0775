// The K best labels of each row on CUDA. A sample gives a bound, one streaming pass collects the
// few scores above it, and a sort of those is the answer. Where the bound was wrong (too few or too
// many candidates: heavy ties) an exact radix selection over the row takes its place.
#include <algorithm>

#include "common.cuh"
#include "topk_rows.cuh"

namespace fastheads {
namespace {

constexpr int64_t kMaxBlocks = 1024;  // with work space of their own in global memory
constexpr int64_t kMinPart = 4096;    // labels a block; below, its fixed costs outweigh the reading

// The host's view of one launch.
template <typename scalar_t>
struct Launch {
  using packed_t = typename Key<scalar_t>::packed_t;
  static constexpr int kCapacity = Space<scalar_t, kWideThreads>::kCapacity;
  const TopkShape& shape;
  const Tensor& scores;
  Tensor& top;
  cudaStream_t stream = current_stream(top);
  const scalar_t* data = scores.const_data_ptr<scalar_t>();
  int64_t stride = scores.stride(0);
  int64_t* out = top.mutable_data_ptr<int64_t>();

  // How many blocks share a row, so that a few wide rows fill the GPU with two blocks a processor.
  int64_t parts_a_row() const {
    if (shape.k > Space<scalar_t, kWideThreads>::kBest) return 1;
    int device = 0, processors = 0;
    STD_CUDA_CHECK(cudaGetDevice(&device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    return std::min({2 * processors / shape.rows, shape.labels / kMinPart, kCapacity / shape.k});
  }

  void narrow() const {
    topk_narrow_kernel<scalar_t><<<static_cast<unsigned>(shape.rows), kNarrowThreads, 0, stream>>>(
        shape, data, stride, out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void wide() const {
    if (shape.k <= kCapacity) return wide(shape.rows, nullptr, 0);
    int64_t pitch = 1;
    while (pitch < shape.k) pitch *= 2;
    const int64_t blocks = std::min(shape.rows, kMaxBlocks);
    const auto lists = work_space(blocks * pitch * sizeof(packed_t));
    wide(blocks, static_cast<packed_t*>(lists.mutable_data_ptr()), pitch);
  }

  void wide(int64_t blocks, packed_t* lists, int64_t pitch) const {
    topk_wide_kernel<scalar_t><<<static_cast<unsigned>(blocks), kWideThreads, 0, stream>>>(
        shape, data, stride, lists, pitch, out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void in_parts(int64_t parts) const {
    const auto bytes = static_cast<int64_t>(shape.rows * parts * shape.k * sizeof(packed_t));
    const auto space = work_space(bytes + shape.rows * sizeof(int));
    auto* best = static_cast<packed_t*>(space.mutable_data_ptr());
    auto* arrived = reinterpret_cast<int*>(best + shape.rows * parts * shape.k);
    STD_CUDA_CHECK(cudaMemsetAsync(arrived, 0, shape.rows * sizeof(int), stream));
    topk_parts_kernel<scalar_t>
        <<<static_cast<unsigned>(shape.rows * parts), kWideThreads, 0, stream>>>(
            shape, data, stride, static_cast<int>(parts), best, arrived, out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  Tensor work_space(int64_t bytes) const {
    return torch::stable::new_empty(scores, {bytes}, ScalarType::Byte);
  }
};

template <typename scalar_t>
void launch(const TopkShape& shape, const Tensor& scores, Tensor& top) {
  const Launch<scalar_t> launch{shape, scores, top};
  if (shape.labels <= Space<scalar_t, kNarrowThreads>::kCapacity) return launch.narrow();
  const int64_t parts = launch.parts_a_row();
  parts > 1 ? launch.in_parts(parts) : launch.wide();
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
