// Launch helpers and 16-byte memory access shared by the CUDA operator files.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include <cstring>

#include "../common.h"

namespace fastheads {

// The stream PyTorch is recording on. Stream::id() is a packed id, not a cudaStream_t.
inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <int bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// Neighbouring elements that travel as one word, whose address is a multiple of its bytes. They
// stay packed until they are used: 16-bit elements would take a register each.
template <typename scalar_t, int size>
struct Packed {
  using word_t = typename WordOf<size * sizeof(scalar_t)>::type;
  word_t word;

  static __device__ Packed load(const scalar_t* address) {
    return {*reinterpret_cast<const word_t*>(address)};
  }
  // For what is read or written for the last time: first to leave the cache.
  static __device__ Packed load_last(const scalar_t* address) {
    return {__ldcs(reinterpret_cast<const word_t*>(address))};
  }
  __device__ void store_last(scalar_t* address) const {
    __stcs(reinterpret_cast<word_t*>(address), word);
  }
  __device__ void store(scalar_t* address) const { *reinterpret_cast<word_t*>(address) = word; }

  __device__ void unpack(acc_t<scalar_t> (&out)[size]) const {
    scalar_t elements[size];
    memcpy(elements, &word, sizeof(word));
#pragma unroll
    for (int j = 0; j < size; ++j) out[j] = static_cast<acc_t<scalar_t>>(elements[j]);
  }
  static __device__ Packed pack(const acc_t<scalar_t> (&values)[size]) {
    scalar_t elements[size];
#pragma unroll
    for (int j = 0; j < size; ++j) elements[j] = static_cast<scalar_t>(values[j]);
    Packed packed;
    memcpy(&packed.word, elements, sizeof(packed.word));
    return packed;
  }
};

}  // namespace fastheads
