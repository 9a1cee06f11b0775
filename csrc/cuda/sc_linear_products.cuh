// sc_linear by PyTorch's own products (cuBLAS), from and into columns where they lie: one product a
// group, or one batched product where neighbouring groups are alike. Any device, dtype and size.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include <algorithm>
#include <array>

#include "../sc_linear.h"

namespace fastheads {
namespace {

// A row-major matrix within a tensor, or `count` of them: element (r, c) of matrix i is at
// offset + i apart + r stride + c.
struct Block {
  const Tensor* of;
  int64_t offset, rows, columns, stride, apart;
};

Tensor as_tensor(const Block& block, int64_t count, bool transposed = false) {
  const Tensor& of = *block.of;
  char* data = static_cast<char*>(const_cast<void*>(of.const_data_ptr()));
  std::array<int64_t, 3> sizes{count, block.rows, block.columns};
  std::array<int64_t, 3> strides{block.apart, block.stride, 1};
  if (transposed) {
    std::swap(sizes[1], sizes[2]);
    std::swap(strides[1], strides[2]);
  }
  const size_t skip = count == 1 ? 1 : 0, dims = 3 - skip;
  return torch::stable::from_blob(data + block.offset * static_cast<int64_t>(of.element_size()),
                                  {sizes.data() + skip, dims}, {strides.data() + skip, dims},
                                  of.device(), of.scalar_type());
}

// out = beta out + a b, each of them [rows, columns] or [count, rows, columns]
void add_product(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  const auto multiply = out.dim() == 3 ? aoti_torch_cuda_baddbmm_out : aoti_torch_cuda_addmm_out;
  STABLE_TORCH_ERROR_CODE_CHECK(multiply(out.get(), out.get(), a.get(), b.get(), add ? 1 : 0, 1));
}

int64_t row_stride(const Tensor& x) {
  return std::max<int64_t>(x.stride(0), x.size(1));
}

// Neighbouring groups of the same sizes, none of which is empty.
struct Run {
  int64_t first, count;
};

std::vector<Run> runs_of(const ScLinearShape& shape) {
  std::vector<Run> runs;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    if (shape.labels(g) == 0) continue;
    const int64_t before = g - 1;
    if (!runs.empty() && runs.back().first + runs.back().count == g &&
        shape.labels(before) == shape.labels(g) && shape.own(before) == shape.own(g)) {
      ++runs.back().count;
    } else {
      runs.push_back({g, 1});
    }
  }
  return runs;
}

// What the groups of a run read: the generic columns or their own, and the columns of W for them.
struct Part {
  Block x, weight;
  bool own;
};

std::vector<Part> parts_of(const ScLinearShape& shape, const Run& run, const Tensor& x,
                           const Tensor& weight, const MaybeTensor& generic) {
  const int64_t g = run.first, n = shape.labels(g), s = shape.generic, own = shape.own(g);
  const int64_t width = shape.width(g), begin = shape.weight[g];
  std::vector<Part> parts;
  if (s > 0) {
    parts.push_back({{&*generic, 0, shape.batch, s, row_stride(*generic), 0},
                     {&weight, begin, n, s, width, n * width},
                     false});
  }
  if (own > 0) {
    parts.push_back({{&x, shape.in_begin(g), shape.batch, own, row_stride(x), own},
                     {&weight, begin + s, n, own, width, n * width},
                     true});
  }
  return parts;
}

Block outputs_of(const ScLinearShape& shape, const Run& run, const Tensor& y) {
  const int64_t n = shape.labels(run.first);
  return {&y, shape.out[run.first], shape.batch, n, row_stride(y), n};
}

// y += x W^T; y holds the bias.
void add_products(const ScLinearShape& shape, const Tensor& x, const Tensor& weight,
                  const MaybeTensor& generic, const Tensor& y, bool add) {
  for (const Run& run : runs_of(shape)) {
    const Tensor out = as_tensor(outputs_of(shape, run, y), run.count);
    bool added = add;
    for (const Part& part : parts_of(shape, run, x, weight, generic)) {
      add_product(out, as_tensor(part.x, run.count), as_tensor(part.weight, run.count, true),
                  added);
      added = true;
    }
  }
}

// Gradients of x and of the weight; empty tensors are not needed.
void add_gradients(const ScLinearShape& shape, const Tensor& grad, const Tensor& x,
                   const Tensor& weight, const MaybeTensor& generic, const Tensor& grad_x,
                   const Tensor& grad_weight) {
  for (const Run& run : runs_of(shape)) {
    const Block dy = outputs_of(shape, run, grad);
    for (const Part& part : parts_of(shape, run, x, weight, generic)) {
      if (part.own && grad_x.numel() > 0) {
        Block dx = part.x;
        dx.of = &grad_x;
        dx.stride = grad_x.size(1);
        add_product(as_tensor(dx, run.count), as_tensor(dy, run.count),
                    as_tensor(part.weight, run.count), false);
      }
      if (grad_weight.numel() > 0) {
        Block dw = part.weight;
        dw.of = &grad_weight;
        add_product(as_tensor(dw, run.count), as_tensor(dy, run.count, true),
                    as_tensor(part.x, run.count), false);
      }
    }
  }
}

// Every group adds to the gradient of the generic columns: in one product where they are as wide as
// each other, else group by group in the precision of sums.
Tensor generic_gradient(const ScLinearShape& shape, const Tensor& grad, const Tensor& weight) {
  const int64_t s = shape.generic, batch = shape.batch;
  bool alike = true;
  for (int64_t g = 1; g < shape.groups(); ++g) alike = alike && shape.own(g) == shape.own(0);
  if (alike && shape.outputs() > 0) {
    Tensor sum = torch::stable::new_empty(grad, {batch, s});
    const Block w{&weight, 0, shape.outputs(), s, shape.width(0), 0};
    add_product(sum, grad, as_tensor(w, 1), false);
    return sum;
  }
  const ScalarType wide = sum_dtype(grad);
  Tensor sum = torch::stable::new_zeros(grad, {batch, s}, wide);
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t n = shape.labels(g);
    if (n == 0) continue;
    const Block dy{&grad, shape.out[g], batch, n, row_stride(grad), 0};
    const Block w{&weight, shape.weight[g], n, s, shape.width(g), 0};
    add_product(sum, torch::stable::to(as_tensor(dy, 1), wide),
                torch::stable::to(as_tensor(w, 1), wide), true);
  }
  return torch::stable::to(sum, grad.scalar_type());
}

}  // namespace
}  // namespace fastheads
