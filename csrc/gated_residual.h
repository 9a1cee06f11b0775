// gated_residual: a residual branch that some samples do without.
//   y[n] = act(x[n] + z[n] f[n]), act = relu or identity; f[n] is not read where z[n] = 0
//   in place, y is x
//   backward, g = 0 where y <= 0, else (NaN too) grad:
//     dx = g, df[n] = z[n] g[n], dz[n] = <g[n], f[n]>
//   scatter, in place: x[active[i]] = act(x[active[i]] + f[i]), means over H, W of what is written
#pragma once

#include <optional>

#include "activations.h"

namespace fastheads {

struct GatedResidualShape {
  int64_t samples;  // N
  int64_t size;     // elements of a sample
};

struct ScatterShape {
  int64_t samples;     // N, rows of x
  int64_t listed;      // B, rows of f
  int64_t channels;    // C where means are taken, else 1
  int64_t pixels;      // H W where means are taken, else the elements of a sample
  bool channels_last;  // the pixels are outside, the channels inside
};

inline int64_t sample_size(const Tensor& x) {
  int64_t size = 1;
  for (int64_t d = 1; d < x.dim(); ++d) size *= x.size(d);
  return size;
}

inline void check_same(const char* op, const char* name, const Tensor& tensor, const char* other,
                       const Tensor& x) {
  STD_TORCH_CHECK(tensor.sizes().equals(x.sizes()), op, ": ", name, " must have the shape of ",
                  other, ", got ", tensor.dim(), " dimensions or other sizes");
  check_dtype(op, name, tensor, x.scalar_type());
  check_device(op, name, tensor, other, x);
}

inline GatedResidualShape check_gated_samples(const char* op, const char* name, const Tensor& x,
                                              const Tensor& z) {
  STD_TORCH_CHECK(x.dim() >= 1, op, ": ", name, " must be [N, ...], got 0 dimensions");
  check_floating(op, name, x);
  STD_TORCH_CHECK(z.dim() == 1 && z.size(0) == x.size(0), op, ": z must be [", x.size(0), "], got ",
                  z.dim(), " dimensions or another size");
  check_dtype(op, "z", z, sum_dtype(x));
  check_device(op, "z", z, name, x);
  return {x.size(0), sample_size(x)};
}

inline GatedResidualShape check_gated_residual(const char* op, const Tensor& x, const Tensor& f,
                                               const Tensor& z) {
  const auto shape = check_gated_samples(op, "x", x, z);
  check_same(op, "f", f, "x", x);
  return shape;
}

inline void check_dense_in_place(const char* op, const Tensor& x) {
  STD_TORCH_CHECK(channels_innermost(x) || x.is_contiguous(), op,
                  ": x must be contiguous or channels-last, since it is changed in place");
}

inline GatedResidualShape check_gated_residual_in_place(const Tensor& x, const Tensor& f,
                                                        const Tensor& z) {
  const char* op = "gated_residual_";
  const auto shape = check_gated_residual(op, x, f, z);
  check_dense_in_place(op, x);
  check_no_partial_overlap(op, "f", f, x);
  return shape;
}

inline GatedResidualShape check_gated_residual_backward(const Tensor& grad,
                                                        const std::optional<Tensor>& y,
                                                        const std::optional<Tensor>& f,
                                                        const Tensor& z) {
  const char* op = "gated_residual_backward";
  const auto shape = check_gated_samples(op, "grad", grad, z);
  if (y) check_same(op, "y", *y, "grad", grad);
  if (f) check_same(op, "f", *f, "grad", grad);
  return shape;
}

inline void check_scatter_mean(const char* op, const Tensor& x, const Tensor& mean) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) * x.size(3) > 0, op,
                  ": x must be [N, C, H, W] with pixels where means are taken, got ", x.dim(),
                  " dimensions or no pixels");
  STD_TORCH_CHECK(mean.dim() == 2 && mean.size(0) == x.size(0) && mean.size(1) == x.size(1), op,
                  ": mean must be [", x.size(0), ", ", x.size(1), "], got ", mean.dim(),
                  " dimensions or other sizes");
  check_dtype(op, "mean", mean, sum_dtype(x));
  STD_TORCH_CHECK(mean.is_contiguous(), op, ": mean must be contiguous, got strides ",
                  mean.stride(0), ", ", mean.stride(1));
  check_device(op, "mean", mean, "x", x);
}

inline void check_scatter_list(const char* op, const Tensor& x, const Tensor& f,
                               const Tensor& active, const std::optional<Tensor>& count) {
  STD_TORCH_CHECK(active.dim() == 1 && active.size(0) >= f.size(0), op,
                  ": active must list a row for each of the ", f.size(0), " samples of f, got ",
                  active.dim(), " dimensions or fewer");
  check_dtype(op, "active", active, ScalarType::Long);
  check_device(op, "active", active, "x", x);
  if (!count) return;
  STD_TORCH_CHECK(count->numel() == 1, op, ": count must be [1], got ", count->numel(),
                  " elements");
  check_dtype(op, "count", *count, ScalarType::Long);
  check_device(op, "count", *count, "x", x);
}

inline ScatterShape check_gated_residual_scatter(const Tensor& x, const Tensor& f,
                                                 const Tensor& active,
                                                 const std::optional<Tensor>& count,
                                                 const std::optional<Tensor>& mean) {
  const char* op = "gated_residual_scatter_";
  STD_TORCH_CHECK(x.dim() >= 1 && f.dim() == x.dim(), op,
                  ": x and f must be [N, ...] and [B, ...], got ", x.dim(), " and ", f.dim(),
                  " dimensions");
  for (int64_t d = 1; d < x.dim(); ++d) {
    STD_TORCH_CHECK(f.size(d) == x.size(d), op, ": f must have samples of the shape of x's, got ",
                    f.size(d), " for ", x.size(d), " in dimension ", d);
  }
  check_floating(op, "x", x);
  check_dtype(op, "f", f, x.scalar_type());
  check_device(op, "f", f, "x", x);
  check_scatter_list(op, x, f, active, count);
  check_dense_in_place(op, x);
  STD_TORCH_CHECK(!overlap(f, x), op, ": f must not overlap x, whose rows change meanwhile");
  if (!mean) return {x.size(0), f.size(0), 1, sample_size(x), false};
  check_scatter_mean(op, x, *mean);
  return {x.size(0), f.size(0), x.size(1), x.size(2) * x.size(3), channels_innermost(x)};
}

[[noreturn]] inline void reject_row(int64_t place, int64_t row, int64_t samples) {
  STD_TORCH_CHECK(false, "gated_residual_scatter_: active must hold rows from 0 to ", samples - 1,
                  ", got ", row, " at ", place);
  __builtin_unreachable();
}

}  // namespace fastheads
