// New tensors on the CPU. Not by the dispatcher, which finds an operator by its name: with cold
// caches that is a tenth of an operator on one sample.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>

#include "../common.h"
#include "../large_pages.h"

namespace fastheads {

inline Tensor empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                            ScalarType dtype) {
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, type, aoti_torch_device_type_cpu(), 0, &made));
  Tensor tensor(made);
  const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
  ask_for_large_pages(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

template <size_t kDims>
Tensor empty(const std::array<int64_t, kDims>& sizes, ScalarType dtype) {
  std::array<int64_t, kDims> strides;
  int64_t stride = 1;
  for (size_t d = kDims; d-- > 0; stride *= sizes[d] > 0 ? sizes[d] : 1) strides[d] = stride;
  return empty_strided(kDims, sizes.data(), strides.data(), dtype);
}

// In the layout of x, which is dense.
inline Tensor dense_like(const Tensor& x) {
  return empty_strided(x.dim(), x.sizes().data(), x.strides().data(), x.scalar_type());
}

}  // namespace fastheads
