// PyTorch's own operators on CUDA: here those of the CPU, whose products are taken in float64, as
// their digits are no concern of ours.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace emulator {

inline torch::stable::Tensor borrowed(AtenTensorHandle tensor) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor, &handle));
  return torch::stable::Tensor(handle);
}

template <auto multiply>
AOTITorchError in_float64(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a,
                          AtenTensorHandle b, double beta, double alpha) {
  const auto wide = [](AtenTensorHandle tensor) {
    return torch::stable::to(borrowed(tensor), torch::headeronly::ScalarType::Double);
  };
  const auto sum = wide(self);
  const auto error = multiply(sum.get(), sum.get(), wide(a).get(), wide(b).get(), beta, alpha);
  torch::stable::Tensor result = borrowed(out);
  torch::stable::copy_(result, sum);
  return error;
}

}  // namespace emulator

#define aoti_torch_cuda_addmm_out emulator::in_float64<aoti_torch_cpu_addmm_out>
#define aoti_torch_cuda_baddbmm_out emulator::in_float64<aoti_torch_cpu_baddbmm_out>
#define aoti_torch_cuda_cumsum aoti_torch_cpu_cumsum
#define aoti_torch_cuda_sort_stable aoti_torch_cpu_sort_stable
