// How the products of sc_linear are shared out over threads and packed for them.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "../sc_linear.h"
#include "allocate.h"
#include "dispatch.h"
#include "sc_linear_rows.h"

namespace fastheads {

inline const ScKernels& sc_kernels() {
#ifdef __x86_64__
  static const Isa isa = isa_here();
  static const bool pairs = isa == Isa::kAvx512 && has_avx512_bf16();
  if (pairs) return sc_linear_avx512bf16;
  if (isa == Isa::kAvx512) return sc_linear_avx512;
  if (isa == Isa::kAvx2) return sc_linear_avx2;
#endif
  return sc_linear_plain;
}

inline int64_t row_stride(const Tensor& x) {
  return x.size(0) > 1 ? x.stride(0) : x.size(1);
}

inline MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(as_contiguous(*tensor)) : tensor;
}

inline MaybeTensor with_dense_rows(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(dense_rows(*tensor)) : tensor;
}

constexpr int64_t kLine = 64, kBlockBytes = 288 << 10;  // a third of a usual L2 cache
constexpr int64_t kFewRows = 32;  // more are multiplied in lanes; these wait for the weights

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Bytes from one packed row to the next: whole vectors, and an odd number of cache lines, so that
// rows do not compete for the same places in the cache.
inline int64_t packed_stride(int64_t numbers, int64_t size) {
  return (ceil_div(numbers * size, kLine) | 1) * kLine;
}

// Memory of one thread, at the start of a cache line.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_(new char[bytes + 2 * kLine]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    next_ = memory_.get() + (kLine - address % kLine);
  }
  char* take(int64_t bytes) {
    char* taken = next_;
    next_ += ceil_div(bytes, kLine) * kLine;
    return taken;
  }

 private:
  std::unique_ptr<char[]> memory_;
  char* next_;
};

// Calls body(next) on every thread for its share of multiply-adds; next() is a task from 0 to
// tasks - 1, or tasks when none is left. A thread takes neighbours, which often read the same, and
// when its own are done those of the others.
template <class Body>
void share_out(int64_t tasks, int64_t multiply_adds, Body body) {
  const int64_t useful = 1 + multiply_adds / 65536;
  const int64_t threads =
      std::min({tasks, useful, static_cast<int64_t>(torch::stable::get_num_threads())});
  std::vector<std::atomic<int64_t>> taken(threads);
  for (int64_t t = 0; t < threads; ++t) taken[t] = tasks * t / threads;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      body([&, begin] {
        for (int64_t t = begin; t < begin + threads; ++t) {
          const int64_t own = t % threads, last = tasks * (own + 1) / threads;
          if (taken[own] >= last) continue;
          const int64_t task = taken[own]++;
          if (task < last) return task;
        }
        return tasks;
      });
    }
  });
}

// What the products read, and how.
struct ScInputs {
  const ScLinearShape& shape;
  FloatFormat format;
  int64_t item, sum_item, dots_item;  // bytes raw, packed, and of x as dots reads it
  const char *x, *generic, *weight;
  int64_t x_stride, generic_stride;

  ScInputs(const ScLinearShape& shape, const Tensor& x, const Tensor& weight,
           const MaybeTensor& generic)
      : shape(shape),
        format(format_of(x.scalar_type())),
        item(x.element_size()),
        sum_item(format == FloatFormat::kFloat64 ? 8 : 4),
        dots_item(format == FloatFormat::kBFloat16 && sc_kernels().raw_bfloat16 ? item : sum_item),
        x(static_cast<const char*>(x.const_data_ptr())),
        generic(generic ? static_cast<const char*>(generic->const_data_ptr()) : nullptr),
        weight(static_cast<const char*>(weight.const_data_ptr())),
        x_stride(row_stride(x)),
        generic_stride(generic ? row_stride(*generic) : 0) {}

  int64_t widest() const {
    int64_t width = 1;
    for (int64_t g = 0; g < shape.groups(); ++g) width = std::max(width, shape.width(g));
    return width;
  }
  // Rows of a packed block, in fours.
  int64_t block_rows(int64_t width) const {
    const int64_t fours = kBlockBytes / packed_stride(width, sum_item) / 4;
    return std::clamp<int64_t>(fours, 1, kDotsRows / 4) * 4;
  }
  int64_t block_bytes() const {
    const int64_t width = widest();
    return std::max(kBlockBytes, 4 * packed_stride(width, sum_item));
  }
  // Whole panels for the lanes of rows, of twice a block; none where one panel does not fit.
  int64_t panel_rows(int64_t width) const {
    if (dots_item < sum_item || width == 0) return 0;
    return 2 * kBlockBytes / (width * sc_kernels().panel_bytes) * rows_of_panel();
  }
  // Rows of a pass in whole panels, if all are shared out evenly over passes of at most `most`.
  int64_t even_panels(int64_t all, int64_t most) const {
    return ceil_div(ceil_div(all, ceil_div(all, most)), rows_of_panel()) * rows_of_panel();
  }
  int64_t rows_of_panel() const { return sc_kernels().panel_bytes / sum_item; }
  // Labels of a task: those whose weights fill a block, in whole register blocks.
  int64_t block_labels() const {
    return std::clamp<int64_t>(kBlockBytes / (widest() * sum_item) / 6, 1, 32) * 6;
  }

  // [generic | x of group g] of rows from `first` on, or of those picked from there; in numbers of
  // `size` bytes.
  void pack(int64_t g, const int64_t* picked, int64_t first, int64_t rows, int64_t size,
            char* to) const {
    const int64_t width = shape.width(g), stride = packed_stride(width, size) / size;
    const int64_t s = shape.generic, skip = picked != nullptr ? 0 : first;
    const int64_t* chosen = picked != nullptr ? picked + first : nullptr;
    const bool raw = size < sum_item;
    if (s > 0) {
      sc_kernels().pack(format, {generic + skip * generic_stride * item, generic_stride, chosen, to,
                                 stride, rows, s, 0, false, raw});
    }
    sc_kernels().pack(
        format, {x + (skip * x_stride + shape.in_begin(g)) * item, x_stride, chosen, to + s * size,
                 stride, rows, shape.own(g), stride - width, false, raw});
  }
  // The same for lanes, transposed.
  void pack_panels(int64_t g, const int64_t* picked, int64_t first, int64_t rows, char* to) const {
    const int64_t width = shape.width(g), panel = rows_of_panel(), s = shape.generic;
    const int64_t lanes = sc_kernels().vector_bytes / sum_item;
    for (int64_t row = 0; row < rows; row += panel, to += width * panel * sum_item) {
      const int64_t count = std::min(panel, rows - row), skip = picked != nullptr ? 0 : first + row;
      const int64_t stride = ceil_div(count, lanes) * lanes;
      const int64_t* chosen = picked != nullptr ? picked + first + row : nullptr;
      if (s > 0) {
        sc_kernels().pack(
            format, {generic + skip * generic_stride * item, generic_stride, chosen, to, stride,
                     count, s, 0, true, false, picked != nullptr ? 0 : lanes * generic_stride});
      }
      sc_kernels().pack(format, {x + (skip * x_stride + shape.in_begin(g)) * item, x_stride, chosen,
                                 to + s * stride * sum_item, stride, count, shape.own(g), 0, true,
                                 false, picked != nullptr ? 0 : lanes * x_stride});
    }
  }
  const char* weight_of(int64_t g, int64_t label) const {
    return weight + (shape.weight[g] + (label - shape.out[g]) * shape.width(g)) * item;
  }
  int64_t multiply_adds() const { return shape.batch * (shape.weight.back() + shape.outputs()); }

  // Calls body(group, begin, end) for the labels of a task of `labels`, cut between the register
  // blocks of each group.
  template <class Body>
  void for_groups(int64_t task, int64_t labels, Body body) const {
    const int64_t low = task * labels, high = std::min(low + labels, shape.outputs());
    for (int64_t g = shape.group_of(low); g < shape.groups() && shape.out[g] < high; ++g) {
      const auto cut = [&](int64_t label) {
        const int64_t begin = shape.out[g];
        if (label <= begin) return begin;
        return std::min(begin + ceil_div(label - begin, 6) * 6, shape.out[g + 1]);
      };
      const int64_t begin = cut(low), end = cut(high);
      if (begin < end) body(g, begin, end);
    }
  }
};

}  // namespace fastheads
