// What operators over activations share: their dtypes, and the two layouts that they read in place,
// contiguous and, for images, channels-last.
#pragma once

#include "common.h"

namespace fastheads {

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                      dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  op, ": ", name, " must be float32, float64, float16 or bfloat16, got ",
                  torch::headeronly::toString(dtype));
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  STD_TORCH_CHECK(tensor.scalar_type() == wanted, op, ": ", name, " must be ",
                  torch::headeronly::toString(wanted), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_device(const char* op, const char* name, const Tensor& tensor, const char* other,
                         const Tensor& x) {
  STD_TORCH_CHECK(tensor.device() == x.device(), op, ": ", name, " must be on the device of ",
                  other);
}

// The dtype of sums over x, and of what is as precise as they are.
inline ScalarType sum_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// [N, C, H, W] with the channels innermost, and not contiguous as well.
inline bool channels_innermost(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

// Asked here first: a call of the dispatcher costs up to a microsecond.
inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// x itself if it is contiguous or channels-last, else a contiguous copy.
inline Tensor dense(const Tensor& x) {
  return channels_innermost(x) ? x : as_contiguous(x);
}

// t in the layout of x, which is dense.
inline Tensor in_layout_of(const Tensor& x, const Tensor& t) {
  if (!channels_innermost(x)) return as_contiguous(t);
  if (channels_innermost(t)) return t;
  return torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
}

// Whether two tensors share memory, neither of which has gaps.
inline bool overlap(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto* begin_a = static_cast<const char*>(a.const_data_ptr());
  const auto* begin_b = static_cast<const char*>(b.const_data_ptr());
  return begin_a < begin_b + b.numel() * b.element_size() &&
         begin_b < begin_a + a.numel() * a.element_size();
}

// What is read while x is written may be x itself, but must not lie across it: it would be read
// where x has been written. (What has gaps is copied before.)
inline void check_no_partial_overlap(const char* op, const char* name, const Tensor& tensor,
                                     const Tensor& x) {
  STD_TORCH_CHECK(tensor.const_data_ptr() == x.const_data_ptr() || !overlap(tensor, x), op, ": ",
                  name, " must not overlap x, except as a whole");
}

}  // namespace fastheads
