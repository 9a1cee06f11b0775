// The in-place addition of the listed samples on CUDA. The list stays on the device: a block reads
// which row it writes, or that it has none.
#include "../gated_residual.h"
#include "common.cuh"
#include "means.cuh"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

template <typename scalar_t, int kVec>
struct Added {
  Pack<scalar_t, kVec>* x;
  const Pack<scalar_t, kVec>* f;
  bool relu;

  // sums += x + f, which is written
  __device__ void add(int64_t i, acc_t<scalar_t> (&sums)[kVec]) const {
    using acc = acc_t<scalar_t>;
    Pack<scalar_t, kVec> pack = x[i];
    const Pack<scalar_t, kVec> branch = f[i];
    for (int v = 0; v < kVec; ++v) {
      const acc sum = static_cast<acc>(pack.at[v]) + static_cast<acc>(branch.at[v]);
      const acc y = relu && sum < 0 ? acc(0) : sum;  // NaN stays
      sums[v] += y;
      pack.at[v] = static_cast<scalar_t>(y);
    }
    x[i] = pack;
  }
};

struct Listed {
  int64_t samples;        // N, rows of x
  int64_t listed;         // B, rows of f
  const int64_t* active;  // [B]
  const int64_t* count;   // [1] or null

  // The row of x that sample i of f is added to, or -1.
  __device__ int64_t row(int64_t i) const {
    if (count != nullptr && i >= *count) return -1;
    const int64_t row = active[i];
    return row < samples ? row : -1;
  }
};

// x: [N, size]; f: [B, size]; means: [N, C]
template <typename scalar_t, int kVec>
__global__ void __launch_bounds__(kThreads)
    scatter_means_kernel(Listed list, MeanPlan plan, scalar_t* x, const scalar_t* f, bool relu,
                         acc_t<scalar_t>* means) {
  using Packed = Pack<scalar_t, kVec>;
  __shared__ acc_t<scalar_t> shared[kThreads * kVec];
  const int64_t size = plan.channels * plan.pixels;
  for (int64_t task = blockIdx.x; task < list.listed * plan.parts; task += gridDim.x) {
    const int64_t i = task / plan.parts, row = list.row(i);
    if (row < 0) continue;  // the whole block
    const Added<scalar_t, kVec> value{reinterpret_cast<Packed*>(x + row * size),
                                      reinterpret_cast<const Packed*>(f + i * size), relu};
    part_means<kVec>(plan, task % plan.parts, value, shared, means + row * plan.channels);
  }
}

// x: [N, size]; f: [B, size]; packs, parts: a sample
template <typename scalar_t, int kVec>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(Listed list, int64_t packs, int64_t parts, Pack<scalar_t, kVec>* x,
                   const Pack<scalar_t, kVec>* f, bool relu) {
  for (int64_t task = blockIdx.x; task < list.listed * parts; task += gridDim.x) {
    const int64_t i = task / parts, row = list.row(i);
    if (row < 0) continue;
    const Added<scalar_t, kVec> value{x + row * packs, f + i * packs, relu};
    acc_t<scalar_t> ignored[kVec] = {};
    const int64_t pack = task % parts * kThreads + threadIdx.x;
    if (pack < packs) value.add(pack, ignored);
  }
}

template <typename scalar_t, int kVec>
void launch(const ScatterShape& shape, const Listed& list, Tensor& x, const Tensor& f,
            const MaybeTensor& mean, bool relu) {
  scalar_t* to = x.mutable_data_ptr<scalar_t>();
  const scalar_t* from = f.const_data_ptr<scalar_t>();
  const cudaStream_t stream = current_stream(x);
  if (mean) {
    const auto plan =
        mean_plan(shape.listed, shape.channels, shape.pixels, shape.channels_last, kVec);
    scatter_means_kernel<scalar_t, kVec>
        <<<blocks_of(shape.listed * plan.parts), kThreads, 0, stream>>>(
            list, plan, to, from, relu, mean->mutable_data_ptr<acc_t<scalar_t>>());
  } else {
    using Packed = Pack<scalar_t, kVec>;
    const int64_t packs = shape.pixels / kVec, parts = (packs + kThreads - 1) / kThreads;
    scatter_kernel<scalar_t, kVec><<<blocks_of(shape.listed * parts), kThreads, 0, stream>>>(
        list, packs, parts, reinterpret_cast<Packed*>(to), reinterpret_cast<const Packed*>(from),
        relu);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename scalar_t>
void scatter(const ScatterShape& shape, const Listed& list, Tensor& x, const Tensor& f,
             const MaybeTensor& mean, bool relu) {
  const int64_t run = shape.channels_last ? shape.channels : shape.pixels;
  const bool packed =
      run % kFullPack<scalar_t> == 0 && aligned(x.const_data_ptr()) && aligned(f.const_data_ptr());
  if (packed) {
    launch<scalar_t, kFullPack<scalar_t>>(shape, list, x, f, mean, relu);
  } else {
    launch<scalar_t, 1>(shape, list, x, f, mean, relu);
  }
}

void gated_residual_scatter_(Tensor x, const Tensor& f_, const Tensor& active_,
                             const MaybeTensor& count, const MaybeTensor& mean, bool relu) {
  const auto shape = check_gated_residual_scatter(x, f_, active_, count, mean);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor f = in_layout_of(x, f_), active = as_contiguous(active_);
  if (f.numel() == 0) return;
  const Listed list{shape.samples, shape.listed, active.const_data_ptr<int64_t>(),
                    count ? count->const_data_ptr<int64_t>() : nullptr};
  FASTHEADS_DISPATCH(x, "gated_residual_scatter_",
                     [&] { scatter<scalar_t>(shape, list, x, f, mean, relu); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("gated_residual_scatter_", TORCH_BOX(&gated_residual_scatter_));
}

}  // namespace fastheads
