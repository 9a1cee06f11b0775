// The counts of topk_confusion on CUDA: integer atomics, so the order of arrival does not matter,
// or a product of bit matrices where labels are few enough.
#include <algorithm>
#include <vector>

#include "../topk_confusion.h"
#include "common.cuh"
#include "topk_confusion_bits.cuh"

namespace fastheads {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kNone = int64_t(1)
                          << 62;  // a position no tensor has, exact as the double of fill_

unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(std::clamp<int64_t>((items + kThreads - 1) / kThreads, 1, 65535));
}

__device__ void add_one(int32_t* count) {
  atomicAdd(count, 1);
}
__device__ void add_one(int64_t* count) {
  atomicAdd(reinterpret_cast<unsigned long long*>(count), 1ull);
}

// first_bad: the lowest position of a label outside 0 to L - 1
__global__ void check_labels_kernel(const int64_t* labels, int64_t size, int64_t num_labels,
                                    long long* first_bad) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x; e < size; e += step) {
    if (labels[e] < 0 || labels[e] >= num_labels) atomicMin(first_bad, static_cast<long long>(e));
  }
}

// offsets: [N + 1]; first_bad: the lowest row that does not ascend within 0 to nonzeros
__global__ void check_offsets_kernel(const int64_t* offsets, int64_t rows, int64_t nonzeros,
                                     long long* first_bad) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x; n <= rows; n += step) {
    const bool ends = (n > 0 || offsets[0] == 0) && (n < rows || offsets[rows] == nonzeros);
    const bool ascends = n == rows || (offsets[n] >= 0 && offsets[n] <= offsets[n + 1]);
    if (!ends || !ascends) atomicMin(first_bad, static_cast<long long>(n));
  }
}

// counts: [L, L]; top: [N, K]; a thread for each label of top
template <typename count_t>
__global__ void confusion_kernel(TopkShape shape, const int64_t* top, const int64_t* indices,
                                 const int64_t* offsets, count_t* counts) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x; e < shape.rows * shape.k;
       e += step) {
    count_t* row = counts + top[e] * shape.labels;
    const int64_t n = e / shape.k;
    for (int64_t a = offsets[n]; a < offsets[n + 1]; ++a) add_one(row + indices[a]);
  }
}

// counts: [L, L]; top: [N, K]; a block for each row of top
template <typename count_t>
__global__ void co_detection_kernel(TopkShape shape, const int64_t* top, count_t* counts) {
  for (int64_t n = blockIdx.x; n < shape.rows; n += gridDim.x) {
    const int64_t* row = top + n * shape.k;
    for (int64_t a = threadIdx.x / 32; a < shape.k; a += kThreads / 32) {
      const int64_t i = row[a];
      for (int64_t b = threadIdx.x % 32; b < shape.k; b += 32) {
        if (i <= row[b]) add_one(counts + i * shape.labels + row[b]);
      }
    }
  }
}

// Collects what the check kernels find; reading it waits for the device.
struct FirstBad {
  Tensor found;

  FirstBad(const Tensor& like, int64_t checks)
      : found(torch::stable::new_empty(like, {checks}, ScalarType::Long)) {
    torch::stable::fill_(found, static_cast<double>(kNone));
  }
  long long* slot(int64_t check) {
    return reinterpret_cast<long long*>(found.mutable_data_ptr<int64_t>()) + check;
  }
};

std::vector<int64_t> to_host(const Tensor& tensor, int64_t first, int64_t count) {
  std::vector<int64_t> host(count);
  const cudaStream_t stream = current_stream(tensor);
  auto capture = cudaStreamCaptureStatusNone;
  STD_CUDA_CHECK(cudaStreamIsCapturing(stream, &capture));
  STD_TORCH_CHECK(capture == cudaStreamCaptureStatusNone,
                  "topk_confusion_ and topk_co_detection_: the check of the labels waits for the "
                  "device, which no CUDA graph can capture");
  STD_CUDA_CHECK(cudaMemcpyAsync(host.data(), tensor.const_data_ptr<int64_t>() + first,
                                 count * sizeof(int64_t), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return host;
}

void check_top(const char* op, const TopkShape& shape, const Tensor& top, int64_t first_bad) {
  if (first_bad == kNone) return;
  const int64_t label = to_host(top, first_bad, 1)[0];
  reject_label(op, "top", first_bad / shape.k, label, shape.labels);
}

void launch_check_labels(const Tensor& labels, int64_t num_labels, long long* first_bad) {
  if (labels.numel() == 0) return;
  check_labels_kernel<<<blocks_for(labels.numel()), kThreads, 0, current_stream(labels)>>>(
      labels.const_data_ptr<int64_t>(), labels.numel(), num_labels, first_bad);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Whether a product costs less than its updates one by one, in picoseconds on an H200. Estimates:
// no kernel here has run there. A cell is read and written at 4.3 TB/s; the rate of bits is a third
// of the datasheet's for int8; 10^10 atomics a second are what random ones may reach.
bool product_pays(const TopkShape& shape) {
  constexpr double kCell = 2, kBitProduct = 0.002, kAtomic = 100;
  const double cells = 0.5 * shape.labels * shape.labels;
  const double updates = 0.5 * shape.rows * shape.k * (shape.k + 1);
  return cells * (kCell + kBitProduct * shape.rows) < updates * kAtomic;
}

// counts: [L, L]; top: [N, K]
template <typename count_t>
void add_bit_products(const TopkShape& shape, const Tensor& top, count_t* counts) {
  constexpr int64_t kMaxBits = int64_t(1) << 30;  // of work space at a time, or one step's
  const int64_t tiles = (shape.labels + kTile - 1) / kTile;
  const int64_t all_steps = (shape.rows + kStepRows - 1) / kStepRows;
  const int64_t steps = std::clamp<int64_t>(kMaxBits / (tiles * kTile * kStepRows), 1, all_steps);
  const int64_t words = steps * kWords;
  const Tensor bits = torch::stable::new_empty(top, {tiles * kTile, words}, ScalarType::Int);
  auto* bit_data = static_cast<uint32_t*>(bits.mutable_data_ptr());
  const cudaStream_t stream = current_stream(top);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(tiles));
  for (int64_t first = 0; first < shape.rows; first += steps * kStepRows) {
    const TopkShape part{std::min(steps * kStepRows, shape.rows - first), shape.labels, shape.k};
    STD_CUDA_CHECK(cudaMemsetAsync(bit_data, 0, bits.numel() * sizeof(uint32_t), stream));
    set_bits_kernel<<<blocks_for(part.rows * part.k), kThreads, 0, stream>>>(
        part, top.const_data_ptr<int64_t>() + first * shape.k, words, bit_data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    bit_product_kernel<<<grid, kProductThreads, 0, stream>>>(bit_data, words, shape.labels, counts);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

template <typename count_t>
void add_co_detection(const TopkShape& shape, const Tensor& top, count_t* counts) {
  if (product_pays(shape)) return add_bit_products(shape, top, counts);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(shape.rows, 1 << 30));
  co_detection_kernel<<<blocks, kThreads, 0, current_stream(top)>>>(
      shape, top.const_data_ptr<int64_t>(), counts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void topk_co_detection_(Tensor counts, const Tensor& top_) {
  const auto shape = check_topk_co_detection(counts, top_);
  const torch::stable::accelerator::DeviceGuard guard(counts.get_device_index());
  const Tensor top = torch::stable::contiguous(top_);
  if (top.numel() == 0) return;
  FirstBad bad(top, 1);
  launch_check_labels(top, shape.labels, bad.slot(0));
  check_top("topk_co_detection_", shape, top, to_host(bad.found, 0, 1)[0]);

  if (counts.scalar_type() == ScalarType::Int) {
    add_co_detection(shape, top, counts.mutable_data_ptr<int32_t>());
  } else {
    add_co_detection(shape, top, counts.mutable_data_ptr<int64_t>());
  }
}

void check_annotation(const TopkShape& shape, const Tensor& indices, const Tensor& offsets,
                      int64_t bad_offset, int64_t bad_index) {
  const int64_t nonzeros = indices.numel();
  if (bad_offset != kNone) {
    const int64_t row = std::max<int64_t>(0, std::min(bad_offset, shape.rows - 1));
    const auto ends = to_host(offsets, row, shape.rows > 0 ? 2 : 1);
    reject_offsets(row, ends.front(), ends.back(), nonzeros);
  }
  if (bad_index != kNone) {
    const auto starts = to_host(offsets, 0, shape.rows + 1);
    const int64_t row = std::upper_bound(starts.begin(), starts.end(), bad_index) - starts.begin();
    const int64_t label = to_host(indices, bad_index, 1)[0];
    reject_label("topk_confusion_", "indices", row - 1, label, shape.labels);
  }
}

void topk_confusion_(Tensor counts, const Tensor& top_, const Tensor& indices_,
                     const Tensor& offsets_) {
  const auto shape = check_topk_confusion(counts, top_, indices_, offsets_);
  const torch::stable::accelerator::DeviceGuard guard(counts.get_device_index());
  const Tensor top = torch::stable::contiguous(top_);
  const Tensor indices = torch::stable::contiguous(indices_);
  const Tensor offsets = torch::stable::contiguous(offsets_);
  const cudaStream_t stream = current_stream(counts);
  const int64_t* offset_data = offsets.const_data_ptr<int64_t>();
  FirstBad bad(top, 3);
  launch_check_labels(top, shape.labels, bad.slot(0));
  launch_check_labels(indices, shape.labels, bad.slot(1));
  check_offsets_kernel<<<blocks_for(shape.rows + 1), kThreads, 0, stream>>>(
      offset_data, shape.rows, indices.numel(), bad.slot(2));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const auto found = to_host(bad.found, 0, 3);
  check_top("topk_confusion_", shape, top, found[0]);
  check_annotation(shape, indices, offsets, found[2], found[1]);
  if (top.numel() == 0 || indices.numel() == 0) return;

  const unsigned blocks = blocks_for(top.numel());
  const int64_t* top_data = top.const_data_ptr<int64_t>();
  const int64_t* index_data = indices.const_data_ptr<int64_t>();
  if (counts.scalar_type() == ScalarType::Int) {
    confusion_kernel<<<blocks, kThreads, 0, stream>>>(shape, top_data, index_data, offset_data,
                                                      counts.mutable_data_ptr<int32_t>());
  } else {
    confusion_kernel<<<blocks, kThreads, 0, stream>>>(shape, top_data, index_data, offset_data,
                                                      counts.mutable_data_ptr<int64_t>());
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("topk_confusion_", TORCH_BOX(&topk_confusion_));
  m.impl("topk_co_detection_", TORCH_BOX(&topk_co_detection_));
}

}  // namespace fastheads
