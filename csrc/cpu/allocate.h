// New tensors on the CPU. Not by the dispatcher, which finds an operator by its name: with cold
// caches that is a tenth of an operator on one sample.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>

#include "../common.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastheads {

// malloc takes blocks of this size from the system anew, above 32 MiB always, below where the end
// of its heap has been given back: in small pages, to touch them first takes ten times as long as
// an operator takes to fill them.
constexpr int64_t kTakenAnew = int64_t{4} << 20;

// Only a hint; pages that have been touched stay as they are.
inline void ask_for_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kTakenAnew) return;
  constexpr uintptr_t kLargePage = uintptr_t{2} << 20;
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (start + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = (start + static_cast<uintptr_t>(bytes)) / kLargePage * kLargePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

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
