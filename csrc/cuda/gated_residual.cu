// gated_residual on CUDA, forward and backward; the scatter is in gated_residual_scatter.cu. A
// block handles adjacent elements of one sample, so that its gate is the same for all threads.
#include <algorithm>
#include <initializer_list>
#include <tuple>
#include <type_traits>

#include "../gated_residual.h"
#include "common.cuh"
#include "means.cuh"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

constexpr int kPacks = 4;  // a thread

// How blocks share the packs of the samples.
struct PackPlan {
  int64_t samples;  // N
  int64_t packs;    // a sample
  int64_t parts;    // a sample
};

// Calls body(n, part, i) for the packs i of a thread; then, in all threads, end(n, part).
template <typename Body, typename End>
__device__ void for_packs(const PackPlan& plan, Body body, End end) {
  for (int64_t task = blockIdx.x; task < plan.samples * plan.parts; task += gridDim.x) {
    const int64_t n = task / plan.parts, part = task % plan.parts;
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = (part * kPacks + k) * kThreads + threadIdx.x;
      if (i < plan.packs) body(n, n * plan.packs + i);
    }
    end(n * plan.parts + part);
  }
}

// x, f, y: [N, size], y may be x; z: [N]
template <typename scalar_t, int kVec>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(PackPlan plan, const Pack<scalar_t, kVec>* x, const Pack<scalar_t, kVec>* f,
                   const acc_t<scalar_t>* z, bool relu, Pack<scalar_t, kVec>* y) {
  using acc = acc_t<scalar_t>;
  const auto add = [&](int64_t n, int64_t i) {
    const acc gate = z[n];
    if (gate == 0 && !relu && x == y) return;
    const Pack<scalar_t, kVec> from = x[i];
    Pack<scalar_t, kVec> branch = {}, to;
    if (gate != 0) branch = f[i];
    for (int v = 0; v < kVec; ++v) {
      const acc sum = static_cast<acc>(from.at[v]) + gate * static_cast<acc>(branch.at[v]);
      to.at[v] = static_cast<scalar_t>(relu && sum < 0 ? acc(0) : sum);  // NaN stays
    }
    y[i] = to;
  };
  for_packs(plan, add, [](int64_t) {});
}

// grad, y, f, grad_x, grad_f: [N, size], y and grad_x null without ReLU, f null where the gates
// have no gradient; z: [N]; dots: [N, parts], sums of g f
template <typename scalar_t, int kVec>
struct Backward {
  const Pack<scalar_t, kVec>*grad, *y, *f;
  Pack<scalar_t, kVec>*grad_x, *grad_f;
  const acc_t<scalar_t>* z;
  acc_t<scalar_t>* dots;
};

template <typename scalar_t, int kVec>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(PackPlan plan, Backward<scalar_t, kVec> b) {
  using acc = acc_t<scalar_t>;
  __shared__ acc warps[kWarps];
  acc dot = 0;
  const auto add = [&](int64_t n, int64_t i) {
    const acc gate = b.z[n];
    Pack<scalar_t, kVec> g = b.grad[i], to_f;
    if (b.y != nullptr) {
      const Pack<scalar_t, kVec> y = b.y[i];
      for (int v = 0; v < kVec; ++v) {
        if (static_cast<acc>(y.at[v]) <= 0) g.at[v] = static_cast<scalar_t>(0.f);  // not NaN
      }
      b.grad_x[i] = g;
    }
    for (int v = 0; v < kVec; ++v) {
      const acc value = gate == 0 ? acc(0) : gate * static_cast<acc>(g.at[v]);
      to_f.at[v] = static_cast<scalar_t>(value);
    }
    b.grad_f[i] = to_f;
    if (b.f == nullptr) return;
    const Pack<scalar_t, kVec> branch = b.f[i];
    for (int v = 0; v < kVec; ++v) {
      dot += static_cast<acc>(g.at[v]) * static_cast<acc>(branch.at[v]);
    }
  };
  const auto end = [&](int64_t part) {
    if (b.f == nullptr) return;
    const acc in_warp = warp_sum(dot);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = in_warp;
    __syncthreads();
    if (threadIdx.x == 0) {
      acc sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += warps[w];
      b.dots[part] = sum;
    }
    __syncthreads();  // warps are used again
    dot = 0;
  };
  for_packs(plan, add, end);
}

// dots: [N, parts]; grad_z: [N]; a warp a sample
template <typename acc>
__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(int64_t samples, int64_t parts, const acc* dots, acc* grad_z) {
  const int64_t step = int64_t(gridDim.x) * kWarps;
  for (int64_t n = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; n < samples; n += step) {
    acc sum = 0;
    for (int64_t part = threadIdx.x % 32; part < parts; part += 32) sum += dots[n * parts + part];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) grad_z[n] = sum;
  }
}

PackPlan plan_of(const GatedResidualShape& shape, int pack) {
  const int64_t packs = shape.size / pack;
  return {shape.samples, packs, (packs + kPacks * kThreads - 1) / (kPacks * kThreads)};
}

// Calls body of the pack size that the samples and addresses allow.
template <typename scalar_t, typename Body>
void for_pack_size(int64_t size, std::initializer_list<const void*> pointers, Body body) {
  const bool all = std::all_of(pointers.begin(), pointers.end(), aligned);
  if (all && size % kFullPack<scalar_t> == 0) {
    body(std::integral_constant<int, kFullPack<scalar_t>>());
  } else {
    body(std::integral_constant<int, 1>());
  }
}

template <typename scalar_t>
void launch_forward(const GatedResidualShape& shape, const Tensor& x, const Tensor& f,
                    const Tensor& z, bool relu, Tensor& y) {
  const void *from = x.const_data_ptr(), *branch = f.const_data_ptr();
  void* to = y.mutable_data_ptr();
  for_pack_size<scalar_t>(shape.size, {from, branch, to}, [&](auto pack) {
    using Packed = Pack<scalar_t, pack.value>;
    const auto plan = plan_of(shape, pack.value);
    forward_kernel<scalar_t, pack.value>
        <<<blocks_of(plan.samples * plan.parts), kThreads, 0, current_stream(x)>>>(
            plan, static_cast<const Packed*>(from), static_cast<const Packed*>(branch),
            z.const_data_ptr<acc_t<scalar_t>>(), relu, static_cast<Packed*>(to));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

Tensor gated_residual(const Tensor& x_, const Tensor& f_, const Tensor& z_, bool relu) {
  const auto shape = check_gated_residual("gated_residual", x_, f_, z_);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = dense(x_), f = in_layout_of(x, f_), z = as_contiguous(z_);
  Tensor y = torch::stable::empty_like(x);
  if (y.numel() == 0) return y;
  FASTHEADS_DISPATCH(x, "gated_residual",
                     [&] { launch_forward<scalar_t>(shape, x, f, z, relu, y); });
  return y;
}

void gated_residual_(Tensor x, const Tensor& f_, const Tensor& z_, bool relu) {
  const auto shape = check_gated_residual_in_place(x, f_, z_);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor f = in_layout_of(x, f_), z = as_contiguous(z_);
  if (x.numel() == 0) return;
  FASTHEADS_DISPATCH(x, "gated_residual_",
                     [&] { launch_forward<scalar_t>(shape, x, f, z, relu, x); });
}

const void* data_or_null(const MaybeTensor& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

template <typename scalar_t>
void launch_backward(const GatedResidualShape& shape, const Tensor& grad, const MaybeTensor& y,
                     const MaybeTensor& f, const Tensor& z, Tensor& grad_x, Tensor& grad_f,
                     Tensor& grad_z) {
  using acc = acc_t<scalar_t>;
  const void *gradient = grad.const_data_ptr(), *out = data_or_null(y), *branch = data_or_null(f);
  void *to_x = y ? grad_x.mutable_data_ptr() : nullptr, *to_f = grad_f.mutable_data_ptr();
  for_pack_size<scalar_t>(shape.size, {gradient, out, branch, to_x, to_f}, [&](auto pack) {
    using Packed = Pack<scalar_t, pack.value>;
    const auto plan = plan_of(shape, pack.value);
    Tensor dots = torch::stable::new_empty(z, {f ? plan.samples * plan.parts : 0});
    const Backward<scalar_t, pack.value> b{
        static_cast<const Packed*>(gradient), static_cast<const Packed*>(out),
        static_cast<const Packed*>(branch),   static_cast<Packed*>(to_x),
        static_cast<Packed*>(to_f),           z.const_data_ptr<acc>(),
        dots.mutable_data_ptr<acc>()};
    const cudaStream_t stream = current_stream(grad);
    backward_kernel<scalar_t, pack.value>
        <<<blocks_of(plan.samples * plan.parts), kThreads, 0, stream>>>(plan, b);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (!f) return;
    sum_parts_kernel<acc><<<blocks_of((plan.samples + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
        plan.samples, plan.parts, dots.const_data_ptr<acc>(), grad_z.mutable_data_ptr<acc>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

std::tuple<Tensor, Tensor, Tensor> gated_residual_backward(const Tensor& grad_,
                                                           const MaybeTensor& y_,
                                                           const MaybeTensor& f_,
                                                           const Tensor& z_) {
  const auto shape = check_gated_residual_backward(grad_, y_, f_, z_);
  const torch::stable::accelerator::DeviceGuard guard(grad_.get_device_index());
  const Tensor like = dense(y_ ? *y_ : f_ ? *f_ : grad_);
  const auto laid_out = [&](const MaybeTensor& tensor) {
    return tensor ? MaybeTensor(in_layout_of(like, *tensor)) : tensor;
  };
  const Tensor grad = in_layout_of(like, grad_), z = as_contiguous(z_);
  const MaybeTensor y = laid_out(y_), f = laid_out(f_);
  Tensor grad_x = y ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
  Tensor grad_f = torch::stable::empty_like(like);
  Tensor grad_z = torch::stable::new_empty(z, {f ? shape.samples : 0});
  if (like.numel() == 0) {
    torch::stable::zero_(grad_z);  // sums of nothing
    return {grad_x, grad_f, grad_z};
  }
  FASTHEADS_DISPATCH(grad, "gated_residual_backward", [&] {
    launch_backward<scalar_t>(shape, grad, y, f, z, grad_x, grad_f, grad_z);
  });
  return {grad_x, grad_f, grad_z};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("gated_residual", TORCH_BOX(&gated_residual));
  m.impl("gated_residual_", TORCH_BOX(&gated_residual_));
  m.impl("gated_residual_backward", TORCH_BOX(&gated_residual_backward));
}

}  // namespace fastheads
