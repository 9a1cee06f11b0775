// gated_residual and its in-place scatter on the CPU: how the work is cut into parts.
#include "../gated_residual.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "dispatch.h"
#include "gated_residual_rows.h"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kPart = 16384;  // elements; fixed, so that sums do not depend on the threads

const GatedResidualKernels& gated_residual_kernels() {
#ifdef __x86_64__
  static const Isa isa = isa_here();
  if (isa == Isa::kAvx512) return gated_residual_avx512;
  if (isa == Isa::kAvx2) return gated_residual_avx2;
#endif
  return gated_residual_plain;
}

int64_t parts_of(int64_t size) {
  return (size + kPart - 1) / kPart;
}

// Calls body(n, part, first, size) for the parts of all samples.
template <typename Body>
void for_parts(int64_t samples, int64_t sample_size, Body body) {
  const int64_t parts = parts_of(sample_size);
  const int64_t grain = std::max<int64_t>(1, 2 * kPart / std::min(kPart, sample_size));
  torch::stable::parallel_for(0, samples * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / parts, first = i % parts * kPart;
      body(n, i % parts, first, std::min(kPart, sample_size - first));
    }
  });
}

template <typename Body>
void for_gates(const Tensor& z, Body body) {
  z.scalar_type() == ScalarType::Double ? body(z.const_data_ptr<double>())
                                        : body(z.const_data_ptr<float>());
}

// The address of an element, in bytes; null for a tensor that is left out.
const char* at(const MaybeTensor& tensor, int64_t element) {
  if (!tensor) return nullptr;
  const auto bytes = static_cast<int64_t>(tensor->element_size());
  return static_cast<const char*>(tensor->const_data_ptr()) + element * bytes;
}

char* at(Tensor& tensor, int64_t element) {
  const auto bytes = static_cast<int64_t>(tensor.element_size());
  return static_cast<char*>(tensor.mutable_data_ptr()) + element * bytes;
}

// y = act(x + z f), all of one layout; y may be x.
void add_branch(const GatedResidualShape& shape, const MaybeTensor& x, const MaybeTensor& f,
                const Tensor& z, bool relu, Tensor& y) {
  if (y.numel() == 0) return;
  const bool in_place = x->const_data_ptr() == y.const_data_ptr();
  const auto format = format_of(y.scalar_type());
  for_gates(z, [&](const auto* gates) {
    for_parts(shape.samples, shape.size, [&](int64_t n, int64_t, int64_t first, int64_t size) {
      if (in_place && gates[n] == 0 && !relu) return;
      const int64_t i = n * shape.size + first;
      gated_residual_kernels().forward(
          format, {at(x, i), at(f, i), at(y, i), size, static_cast<double>(gates[n]), relu});
    });
  });
}

Tensor gated_residual(const Tensor& x_, const Tensor& f_, const Tensor& z, bool relu) {
  const auto shape = check_gated_residual("gated_residual", x_, f_, z);
  const Tensor x = dense(x_);
  Tensor y = dense_like(x);
  add_branch(shape, x, in_layout_of(x, f_), as_contiguous(z), relu, y);
  return y;
}

void gated_residual_(Tensor x, const Tensor& f, const Tensor& z, bool relu) {
  const auto shape = check_gated_residual_in_place(x, f, z);
  add_branch(shape, x, in_layout_of(x, f), as_contiguous(z), relu, x);
}

// to[n] = the sum of the parts of sample n, in their order
template <typename acc>
void sum_parts(const std::vector<double>& dots, int64_t parts, Tensor& to) {
  acc* sums = to.mutable_data_ptr<acc>();
  for (int64_t n = 0; n < to.size(0); ++n) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += dots[n * parts + part];
    sums[n] = static_cast<acc>(sum);
  }
}

std::tuple<Tensor, Tensor, Tensor> gated_residual_backward(const Tensor& grad_,
                                                           const MaybeTensor& y_,
                                                           const MaybeTensor& f_,
                                                           const Tensor& z_) {
  const auto shape = check_gated_residual_backward(grad_, y_, f_, z_);
  const Tensor like = dense(y_ ? *y_ : f_ ? *f_ : grad_);
  const auto laid_out = [&](const MaybeTensor& tensor) {
    return tensor ? MaybeTensor(in_layout_of(like, *tensor)) : tensor;
  };
  const MaybeTensor grad = laid_out(grad_), y = laid_out(y_), f = laid_out(f_);
  const Tensor z = as_contiguous(z_);
  Tensor grad_x = y ? dense_like(like) : empty<1>({0}, like.scalar_type());
  Tensor grad_f = dense_like(like);
  Tensor grad_z = empty<1>({f ? shape.samples : 0}, z.scalar_type());
  const auto format = format_of(like.scalar_type());
  const int64_t parts = parts_of(shape.size);
  std::vector<double> dots(f ? shape.samples * parts : 0);
  if (like.numel() > 0) {
    for_gates(z, [&](const auto* gates) {
      for_parts(shape.samples, shape.size,
                [&](int64_t n, int64_t part, int64_t first, int64_t size) {
                  const int64_t i = n * shape.size + first;
                  const double dot = gated_residual_kernels().backward(
                      format, {at(grad, i), at(y, i), at(f, i), y ? at(grad_x, i) : nullptr,
                               at(grad_f, i), size, static_cast<double>(gates[n])});
                  if (f) dots[n * parts + part] = dot;
                });
    });
  }
  if (f) {
    z.scalar_type() == ScalarType::Double ? sum_parts<double>(dots, parts, grad_z)
                                          : sum_parts<float>(dots, parts, grad_z);
  }
  return {grad_x, grad_f, grad_z};
}

int64_t rows_to_write(const ScatterShape& shape, const int64_t* rows, const MaybeTensor& count) {
  int64_t listed = shape.listed;
  if (count) listed = std::min(listed, *count->const_data_ptr<int64_t>());
  for (int64_t i = 0; i < listed; ++i) {
    if (rows[i] < 0 || rows[i] >= shape.samples) reject_row(i, rows[i], shape.samples);
  }
  return listed;
}

void gated_residual_scatter_(Tensor x, const Tensor& f_, const Tensor& active_,
                             const MaybeTensor& count, const MaybeTensor& mean_, bool relu) {
  const auto shape = check_gated_residual_scatter(x, f_, active_, count, mean_);
  const MaybeTensor f = in_layout_of(x, f_);
  const Tensor active = as_contiguous(active_);
  const int64_t* rows = active.const_data_ptr<int64_t>();
  const int64_t listed = rows_to_write(shape, rows, count);
  const int64_t size = shape.channels * shape.pixels;
  if (listed <= 0 || size == 0) return;

  // A part is a range of channels where means are taken, else of elements; the sum of a channel is
  // the same however the channels are cut.
  const int64_t cut = mean_ ? shape.channels : size;
  int64_t block = mean_ ? std::max<int64_t>(1, kPart / shape.pixels) : kPart;
  if (shape.channels_last) {
    const int64_t wanted = listed >= torch::stable::get_num_threads() ? 1 : 16;
    block = std::max<int64_t>(64, (cut / wanted + 63) / 64 * 64);
  }
  const int64_t parts = (cut + block - 1) / block;
  const auto format = format_of(x.scalar_type());
  const int64_t grain = std::max<int64_t>(1, 2 * kPart * parts / size);
  torch::stable::parallel_for(0, listed * parts, grain, [&](int64_t begin, int64_t end) {
    Tensor mean = mean_ ? *mean_ : x;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task / parts, first = task % parts * block;
      void* means = mean_ ? at(mean, rows[i] * shape.channels) : nullptr;
      gated_residual_kernels().scatter(
          format, {at(x, rows[i] * size), at(f, i * size), means, shape.channels, shape.pixels,
                   first, std::min(cut, first + block), shape.channels_last, relu});
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("gated_residual", TORCH_BOX(&gated_residual));
  m.impl("gated_residual_", TORCH_BOX(&gated_residual_));
  m.impl("gated_residual_backward", TORCH_BOX(&gated_residual_backward));
  m.impl("gated_residual_scatter_", TORCH_BOX(&gated_residual_scatter_));
}

}  // namespace fastheads
