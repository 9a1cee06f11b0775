// Which samples execute, listed by one block: a batch is at most some ten thousand samples, and
// nothing waits for the host.
#include <tuple>

#include "../gate.h"
#include "common.cuh"

namespace fastheads {
namespace {

constexpr int kListThreads = 1024;
constexpr int kListWarps = kListThreads / 32;

// The sum over the block of a count per warp, and in *before that of the warps before this one.
__device__ int block_count(int in_warp, int* counts, int* before) {
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) counts[warp] = in_warp;
  __syncthreads();
  int sum = 0;
  *before = 0;
  for (int w = 0; w < kListWarps; ++w) {
    if (w == warp) *before = sum;
    sum += counts[w];
  }
  __syncthreads();  // counts are used again
  return sum;
}

// z: [N]; active: [N]; count: [1]
template <typename scalar_t>
__global__ void __launch_bounds__(kListThreads)
    active_samples_kernel(int64_t samples, const scalar_t* z, int64_t* active, int64_t* count) {
  __shared__ int counts[kListWarps];
  const unsigned before_lane = (1u << threadIdx.x % 32) - 1;
  int before_warp;
  int64_t executing = 0;
  for (int64_t first = 0; first < samples; first += kListThreads) {
    const int64_t n = first + threadIdx.x;
    const unsigned open = __ballot_sync(0xffffffffu, n < samples && z[n] > 0);
    executing += block_count(__popc(open), counts, &before_warp);
  }
  if (threadIdx.x == 0) *count = executing;

  int64_t before = 0;  // that execute, in earlier rounds
  for (int64_t first = 0; first < samples; first += kListThreads) {
    const int64_t n = first + threadIdx.x;
    const bool executes = n < samples && z[n] > 0;
    const unsigned open = __ballot_sync(0xffffffffu, executes);
    const int in_round = block_count(__popc(open), counts, &before_warp);
    const int64_t place = before + before_warp + __popc(open & before_lane);
    if (n < samples) active[executes ? place : executing + n - place] = n;
    before += in_round;
  }
}

std::tuple<Tensor, Tensor> active_samples(const Tensor& z_) {
  check_active_samples(z_);
  const torch::stable::accelerator::DeviceGuard guard(z_.get_device_index());
  const Tensor z = as_contiguous(z_);
  const int64_t samples = z.size(0);
  Tensor active = torch::stable::new_empty(z, {samples}, ScalarType::Long);
  Tensor count = torch::stable::new_empty(z, {1}, ScalarType::Long);
  int64_t* rows = active.mutable_data_ptr<int64_t>();
  int64_t* total = count.mutable_data_ptr<int64_t>();
  if (z.scalar_type() == ScalarType::Double) {
    active_samples_kernel<<<1, kListThreads, 0, current_stream(z)>>>(
        samples, z.const_data_ptr<double>(), rows, total);
  } else {
    active_samples_kernel<<<1, kListThreads, 0, current_stream(z)>>>(
        samples, z.const_data_ptr<float>(), rows, total);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {active, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("active_samples", TORCH_BOX(&active_samples));
}

}  // namespace fastheads
