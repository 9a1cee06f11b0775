// New tensors on the CPU. Not by the dispatcher, which finds an operator by its name: with cold
// caches that is a tenth of an operator on one sample.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>

#include "../common.h"
#include "large_blocks.h"
#include "large_pages.h"

namespace fastheads {

// From PyTorch's allocator.
inline Tensor fresh(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                    int64_t bytes) {
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes, strides, dtype,
                                                         aoti_torch_device_type_cpu(), 0, &made));
  Tensor tensor(made);
  ask_for_large_pages(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

inline Tensor empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                            ScalarType dtype) {
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  auto bytes = static_cast<int64_t>(aoti_torch_dtype_element_size(type));
  for (int64_t d = 0; d < dims; ++d) bytes *= sizes[d];
  return bytes > kUnmappedWhenFreed ? large_empty(dims, sizes, strides, dtype, bytes)
                                    : fresh(dims, sizes, strides, type, bytes);
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
