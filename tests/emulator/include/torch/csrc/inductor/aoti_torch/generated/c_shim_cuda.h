// PyTorch's own operators on CUDA: here those of the CPU.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#define aoti_torch_cuda_addmm_out aoti_torch_cpu_addmm_out
#define aoti_torch_cuda_baddbmm_out aoti_torch_cpu_baddbmm_out
#define aoti_torch_cuda_cumsum aoti_torch_cpu_cumsum
#define aoti_torch_cuda_sort_stable aoti_torch_cpu_sort_stable
