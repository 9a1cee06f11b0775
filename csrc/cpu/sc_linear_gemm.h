// sc_linear by PyTorch's own products, one a group from columns into columns: where oneDNN
// multiplies bfloat16 faster than float32 can be, that is for large groups and batches.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <array>

#include "sc_linear_tasks.h"

namespace fastheads {

// Neither generic columns, whose parts would be rounded before they are summed, nor groups so small
// that a call costs more than the product; measured on 512 columns of 5,000 labels.
inline bool prefer_gemm(const ScInputs& in, int64_t least_batch) {
  const bool large = in.shape.weight.back() >= 65536 * in.shape.groups();
  return in.format == FloatFormat::kBFloat16 && in.shape.generic == 0 && large &&
         in.shape.batch >= least_batch && sc_kernels().raw_bfloat16;
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
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t n = shape.labels(g), k = shape.own(g), batch = shape.batch;
    if (n == 0) continue;
    const Tensor out = gemm_columns(y, shape.out[g], batch, n, row_stride(y));
    const Tensor x_g = gemm_columns(x, shape.in_begin(g), batch, k, row_stride(x));
    const Tensor w_t = gemm_columns(weight, shape.weight[g], n, k, k, true);
    const Tensor add = bias ? gemm_columns(*bias, shape.out[g], batch, n, 0) : out;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(out.get(), add.get(), x_g.get(), w_t.get(), bias ? 1 : 0, 1));
  }
}

inline void gemm_grad_x(const ScLinearShape& shape, const Tensor& grad, const Tensor& weight,
                        Tensor& grad_x) {
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t n = shape.labels(g), k = shape.own(g);
    if (n == 0) continue;  // zeros are there
    const Tensor out = gemm_columns(grad_x, shape.in_begin(g), shape.batch, k, shape.in.back());
    const Tensor dy = gemm_columns(grad, shape.out[g], shape.batch, n, row_stride(grad));
    const Tensor w = gemm_columns(weight, shape.weight[g], n, k, k);
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), dy.get(), w.get()));
  }
}

inline void gemm_grad_weight(const ScLinearShape& shape, const Tensor& grad, const Tensor& x,
                             Tensor& grad_weight) {
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t n = shape.labels(g), k = shape.own(g);
    if (n == 0) continue;
    const Tensor out = gemm_columns(grad_weight, shape.weight[g], n, k, k);
    const Tensor dy_t = gemm_columns(grad, shape.out[g], shape.batch, n, row_stride(grad), true);
    const Tensor x_g = gemm_columns(x, shape.in_begin(g), shape.batch, k, row_stride(x));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), dy_t.get(), x_g.get()));
  }
}

}  // namespace fastheads
