// sc_linear: the linear layers of many groups at once; groups are static and of any sizes.
//   y[b, out_g] = [generic[b] | x[b, in_g]] W_g^T + bias[out_g]
// in_g and out_g are the columns from offset g to offset g + 1; W_g is [n_g, s + k_g], row-major,
// one group after the other in the flat weight.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "activations.h"

namespace fastheads {

using MaybeTensor = std::optional<Tensor>;
using Offsets = std::vector<int64_t>;

struct ScLinearShape {
  int64_t batch;    // B
  int64_t generic;  // s, columns that every group reads before its own
  Offsets in;       // [M + 1] columns of x; if shared, each group reads all of x
  Offsets out;      // [M + 1] columns of y
  Offsets weight;   // [M + 1] where W_g begins in the flat weight
  bool shared;      // x is read by every group

  int64_t groups() const { return static_cast<int64_t>(out.size()) - 1; }
  int64_t outputs() const { return out.back(); }
  int64_t in_begin(int64_t g) const { return shared ? 0 : in[g]; }
  int64_t own(int64_t g) const { return shared ? in.back() : in[g + 1] - in[g]; }  // k_g
  int64_t width(int64_t g) const { return generic + own(g); }                      // of W_g
  int64_t labels(int64_t g) const { return out[g + 1] - out[g]; }                  // n_g
  // The group that writes a column of y: the last that begins there or before.
  int64_t group_of(int64_t label) const {
    return std::upper_bound(out.begin(), out.end(), label) - out.begin() - 1;
  }
};

inline void check_sc_offsets(const char* name, const Offsets& offsets) {
  STD_TORCH_CHECK(!offsets.empty() && offsets[0] == 0, "sc_linear: ", name,
                  " must begin with 0, got ", offsets.empty() ? "none" : "another number");
  for (size_t i = 1; i < offsets.size(); ++i) {
    STD_TORCH_CHECK(offsets[i - 1] <= offsets[i], "sc_linear: ", name, " must ascend, got ",
                    offsets[i], " after ", offsets[i - 1], " at ", i);
  }
}

// The groups of a weight whose layers read `columns` columns in all.
inline ScLinearShape sc_linear_groups(int64_t batch, int64_t columns, int64_t generic,
                                      const std::optional<Offsets>& in, const Offsets& out,
                                      const Tensor& weight) {
  check_sc_offsets("out_offsets", out);
  if (in) {
    check_sc_offsets("in_offsets", *in);
    STD_TORCH_CHECK(in->size() == out.size(), "sc_linear: in_offsets must have the ", out.size(),
                    " entries of out_offsets, got ", in->size());
    STD_TORCH_CHECK(in->back() == columns, "sc_linear: in_offsets must end with the ", columns,
                    " columns of x, got ", in->back());
  }
  ScLinearShape shape{batch, generic, in ? *in : Offsets{0, columns}, out, {0}, !in};
  shape.weight.reserve(out.size());
  for (int64_t g = 0; g < shape.groups(); ++g) {
    shape.weight.push_back(shape.weight[g] + shape.labels(g) * shape.width(g));
  }
  STD_TORCH_CHECK(weight.dim() == 1 && weight.size(0) == shape.weight.back(),
                  "sc_linear: weight must be [", shape.weight.back(), "], got ", weight.dim(),
                  " dimensions of ", weight.numel(), " entries");
  return shape;
}

inline void check_sc_tensor(const char* name, const Tensor& tensor, const Tensor& x) {
  check_dtype("sc_linear", name, tensor, x.scalar_type());
  check_device("sc_linear", name, tensor, "x", x);
}

inline void check_sc_bias(const MaybeTensor& bias, int64_t outputs, const Tensor& x) {
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "sc_linear: bias must be [",
                  outputs, "], got ", bias->dim(), " dimensions of ", bias->numel(), " entries");
  check_sc_tensor("bias", *bias, x);
}

inline ScLinearShape check_sc_linear(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                                     const MaybeTensor& generic, const std::optional<Offsets>& in,
                                     const Offsets& out) {
  STD_TORCH_CHECK(x.dim() == 2, "sc_linear: x must be [B, K], got ", x.dim(), " dimensions");
  check_floating("sc_linear", "x", x);
  check_sc_tensor("weight", weight, x);
  if (generic) {
    STD_TORCH_CHECK(generic->dim() == 2 && generic->size(0) == x.size(0),
                    "sc_linear: generic must be [", x.size(0), ", s], got ", generic->dim(),
                    " dimensions or another batch");
    check_sc_tensor("generic", *generic, x);
  }
  auto shape =
      sc_linear_groups(x.size(0), x.size(1), generic ? generic->size(1) : 0, in, out, weight);
  check_sc_bias(bias, shape.outputs(), x);
  if (shape.shared) {  // equal widths: one rectangle
    shape.out = {0, shape.outputs()};
    shape.weight = {0, shape.weight.back()};
  }
  return shape;
}

// y is written in place: any distance between its rows.
inline void check_sc_output(const char* name, const Tensor& y, const ScLinearShape& shape,
                            const Tensor& x) {
  STD_TORCH_CHECK(y.dim() == 2 && y.size(0) == shape.batch && y.size(1) == shape.outputs(),
                  "sc_linear: ", name, " must be [", shape.batch, ", ", shape.outputs(), "], got ",
                  y.dim(), " dimensions or other sizes");
  check_sc_tensor(name, y, x);
}

// Bytes from a tensor's first number to the end of its last, gaps included.
inline int64_t span_bytes(const Tensor& x) {
  int64_t last = 0;
  for (int64_t d = 0; d < x.dim(); ++d) last += (x.size(d) - 1) * x.stride(d);
  return (last + 1) * static_cast<int64_t>(x.element_size());
}

// Whether a matrix may share memory with another tensor; columns of one matrix beside each other
// do not.
inline bool may_overlap(const Tensor& y, const Tensor& x) {
  if (y.numel() == 0 || x.numel() == 0) return false;
  const auto* y_begin = static_cast<const char*>(y.const_data_ptr());
  const auto* x_begin = static_cast<const char*>(x.const_data_ptr());
  if (y_begin >= x_begin + span_bytes(x) || x_begin >= y_begin + span_bytes(y)) return false;
  if (x.dim() != 2 || x.stride(1) != 1 || y.stride(1) != 1 || x.stride(0) != y.stride(0) ||
      y.stride(0) <= 0) {
    return true;
  }
  const int64_t pitch = y.stride(0) * static_cast<int64_t>(y.element_size());
  const int64_t begin = ((x_begin - y_begin) % pitch + pitch) % pitch;  // of x in a row of y's
  return begin < y.size(1) * static_cast<int64_t>(y.element_size()) ||
         begin + x.size(1) * static_cast<int64_t>(x.element_size()) > pitch;
}

// What sc_linear_ reads must not lie where it writes, nor one row of y in another.
inline void check_sc_in_place(const Tensor& y, const ScLinearShape& shape, const Tensor& x,
                              const Tensor& weight, const MaybeTensor& bias,
                              const MaybeTensor& generic) {
  check_sc_output("y", y, shape, x);
  const int64_t rows = y.size(0), columns = y.size(1);
  const bool apart = (rows <= 1 || y.stride(0) > 0) && (columns <= 1 || y.stride(1) > 0) &&
                     (rows <= 1 || columns <= 1 || y.stride(0) >= columns * y.stride(1) ||
                      y.stride(1) >= rows * y.stride(0));
  STD_TORCH_CHECK(y.numel() <= 1 || apart, "sc_linear_: y must not overlap itself, got strides ",
                  y.stride(0), ", ", y.stride(1));
  const auto check_apart = [&](const char* name, const Tensor& read) {
    STD_TORCH_CHECK(!may_overlap(y, read), "sc_linear_: y must not overlap ", name,
                    ", which is read while y is written");
  };
  check_apart("x", x);
  check_apart("weight", weight);
  if (bias) check_apart("bias", *bias);
  if (generic) check_apart("generic", *generic);
}

inline bool has_dense_rows(const Tensor& x) {
  return (x.size(1) <= 1 || x.stride(1) == 1) && (x.size(0) <= 1 || x.stride(0) >= x.size(1));
}

// Rows without gaps within them; any distance between rows.
inline Tensor dense_rows(const Tensor& x) {
  return has_dense_rows(x) ? x : torch::stable::contiguous(x);
}

// P pairs of a row of x and a group; without rows, row p of x belongs to pair p.
inline ScLinearShape check_sc_linear_conditional(const Tensor& x, const Tensor& weight,
                                                 const MaybeTensor& bias, const MaybeTensor& rows,
                                                 const Tensor& groups,
                                                 const std::optional<Offsets>& in,
                                                 const Offsets& out) {
  STD_TORCH_CHECK(x.dim() == 2, "sc_linear_conditional: x must be [B, K], got ", x.dim(),
                  " dimensions");
  check_floating("sc_linear_conditional", "x", x);
  check_sc_tensor("weight", weight, x);
  for (const auto& [name, index] :
       {std::pair{"groups", &groups}, {"rows", rows ? &*rows : &groups}}) {
    STD_TORCH_CHECK(index->dim() == 1 && index->size(0) == groups.size(0),
                    "sc_linear_conditional: ", name, " must be [", groups.numel(), "], got ",
                    index->dim(), " dimensions of ", index->numel(), " entries");
    check_dtype("sc_linear_conditional", name, *index, ScalarType::Long);
    check_device("sc_linear_conditional", name, *index, "x", x);
  }
  std::optional<Offsets> columns = in;
  if (!rows) {
    STD_TORCH_CHECK(x.size(0) == groups.size(0), "sc_linear_conditional: x must have the ",
                    groups.size(0), " rows of groups, got ", x.size(0));
    if (in) {  // of the rows before they were picked
      check_sc_offsets("in_offsets", *in);
      for (size_t g = 1; g < in->size(); ++g) {
        STD_TORCH_CHECK((*in)[g] - (*in)[g - 1] == x.size(1),
                        "sc_linear_conditional: every group must read the ", x.size(1),
                        " columns of x, got ", (*in)[g] - (*in)[g - 1], " in group ", g - 1);
      }
    }
    columns = std::nullopt;
  }
  const auto shape = sc_linear_groups(x.size(0), x.size(1), 0, columns, out, weight);
  check_sc_bias(bias, shape.outputs(), x);
  return shape;
}

}  // namespace fastheads
