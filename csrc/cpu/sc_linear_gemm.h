// sc_linear by PyTorch's own products, one a group from columns into columns: where these are
// large, its library comes closer to what the processor can do.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <array>
#include <numeric>

#include "sc_linear_tasks.h"

namespace fastheads {

// From which batch on the library is faster. GFLOP/s a core, 512 columns and 5,000 labels a group,
// library : ours:
//   float32, Skylake-SP   forward      64: 61 : 104  256: 101 : 110  1024: 112 : 108
//                         grad_x       64: 65 : 80   128:  88 :  82   256:  94 : 78
//                         grad_weight  64: 78 : 84   100:  92 : 81    256: 106 : 73
//   bfloat16, Zen 4       forward      64: 140 : 179  256: 180 : 183  (it knows tile registers)
//                         grad_x       16: 54 : 52    64: 146 : 71
//                         grad_weight  16: 87 : 41    64: 173 : 78
// Of float32 only forward has been measured on Zen 4 (256 rows: 70 : 86); of grad_x not since.
struct LeastBatch {
  int64_t float32, bfloat16;
};
constexpr LeastBatch kGemmForward{INT64_MAX, 256}, kGemmGradX{128, 16}, kGemmGradWeight{80, 16};

// Neither generic columns, whose parts would be rounded before they are summed, nor groups so small
// that a call costs more than the product. In float64 both are as fast (33 : 34 to 39 : 37).
inline bool prefer_gemm(const ScInputs& in, const LeastBatch& least) {
  const bool bfloat16 = in.format == FloatFormat::kBFloat16 && sc_kernels().raw_bfloat16;
  const bool large = in.shape.weight.back() >= 65536 * in.shape.groups();
  return large && in.shape.generic == 0 &&
         (bfloat16 ? in.shape.batch >= least.bfloat16
                   : in.format == FloatFormat::kFloat32 && in.shape.batch >= least.float32);
}

// Calls product(g) for every group that has labels, the largest first: each on one thread, if this
// keeps all threads busy; otherwise one after the other, each on all threads. (256 rows, 20 groups
// of 512 x 512, 2 threads: PyTorch's batched product takes 16.0 ms, its products in turn 18.1.)
template <class Product>
void for_products(const ScLinearShape& shape, Product product) {
  const auto size = [&](int64_t g) { return shape.weight[g + 1] - shape.weight[g]; };
  std::vector<int64_t> groups(shape.groups());
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int64_t a, int64_t b) { return size(a) > size(b); });
  std::vector<int64_t> load(torch::stable::get_num_threads());
  for (int64_t g : groups) *std::min_element(load.begin(), load.end()) += size(g);
  const int64_t longest = *std::max_element(load.begin(), load.end());
  const auto call = [&](int64_t g) {
    if (shape.labels(g) > 0) product(g);
  };
  if (longest * static_cast<int64_t>(load.size()) > shape.weight.back() / 4 * 5) {
    std::for_each(groups.begin(), groups.end(), call);
    return;
  }
  share_out(shape.groups(), shape.batch * shape.weight.back(), [&](auto next) {
    for (int64_t i; (i = next()) < shape.groups();) call(groups[i]);
  });
}

// Columns of a row-major matrix where they lie; with stride 0 one row again and again.
inline Tensor gemm_columns(const Tensor& of, int64_t offset, int64_t rows, int64_t columns,
                           int64_t stride, bool transposed = false) {
  char* data = static_cast<char*>(const_cast<void*>(of.const_data_ptr()));
  std::array<int64_t, 2> sizes{rows, columns}, strides{stride, 1};
  if (transposed) {
    std::swap(sizes[0], sizes[1]);
    std::swap(strides[0], strides[1]);
  }
  return torch::stable::from_blob(data + offset * of.element_size(), {sizes.data(), 2},
                                  {strides.data(), 2}, of.device(), of.scalar_type());
}

inline void gemm_forward(const ScLinearShape& shape, const Tensor& x, const Tensor& weight,
                         const MaybeTensor& bias, Tensor& y) {
  for_products(shape, [&](int64_t g) {
    const int64_t n = shape.labels(g), k = shape.own(g), batch = shape.batch;
    const Tensor out = gemm_columns(y, shape.out[g], batch, n, row_stride(y));
    const Tensor x_g = gemm_columns(x, shape.in_begin(g), batch, k, row_stride(x));
    const Tensor w_t = gemm_columns(weight, shape.weight[g], n, k, k, true);
    const Tensor add = bias ? gemm_columns(*bias, shape.out[g], batch, n, 0) : out;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(out.get(), add.get(), x_g.get(), w_t.get(), bias ? 1 : 0, 1));
  });
}

inline void gemm_grad_x(const ScLinearShape& shape, const Tensor& grad, const Tensor& weight,
                        Tensor& grad_x) {
  for_products(shape, [&](int64_t g) {  // where there are no labels, zeros are there
    const int64_t n = shape.labels(g), k = shape.own(g);
    const Tensor out = gemm_columns(grad_x, shape.in_begin(g), shape.batch, k, shape.in.back());
    const Tensor dy = gemm_columns(grad, shape.out[g], shape.batch, n, row_stride(grad));
    const Tensor w = gemm_columns(weight, shape.weight[g], n, k, k);
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), dy.get(), w.get()));
  });
}

inline void gemm_grad_weight(const ScLinearShape& shape, const Tensor& grad, const Tensor& x,
                             Tensor& grad_weight) {
  for_products(shape, [&](int64_t g) {
    const int64_t n = shape.labels(g), k = shape.own(g);
    const Tensor out = gemm_columns(grad_weight, shape.weight[g], n, k, k);
    const Tensor dy_t = gemm_columns(grad, shape.out[g], shape.batch, n, row_stride(grad), true);
    const Tensor x_g = gemm_columns(x, shape.in_begin(g), shape.batch, k, row_stride(x));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), dy_t.get(), x_g.get()));
  });
}

}  // namespace fastheads
