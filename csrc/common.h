// What every operator file shares: the tensor type, the dtype dispatch, the accumulator.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <type_traits>

// From PyTorch 2.12 on there is one that hands the message on.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace fastheads {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums run in float for half and bfloat16, in the tensor's own type otherwise.
template <typename scalar_t>
using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

}  // namespace fastheads

// Calls body<scalar_t>() for float64, float32, float16 and bfloat16.
#define FASTHEADS_DISPATCH(tensor, name, ...)                                        \
  THO_DISPATCH_V2((tensor).scalar_type(), name, AT_WRAP([&] { __VA_ARGS__(); }),     \
                  AT_EXPAND(AT_FLOATING_TYPES), torch::headeronly::ScalarType::Half, \
                  torch::headeronly::ScalarType::BFloat16)
