// The gradients of sc_linear on the CPU.
//   grad_weight_g = grad_g^T [generic | x_g]      by blocks of labels
//   [grad_generic | grad_x_g] = grad_g W_g        by segments of labels, whose parts are summed in
//   order
#include <tuple>

#include "sc_linear_gemm.h"

namespace fastheads {
namespace {

constexpr int64_t kStreamBytes = 32 << 20;  // of a gradient that the caches would not keep

struct ScGrad {
  const char* data;
  int64_t stride;
};

void grad_weight(const ScInputs& in, const ScGrad& grad, Tensor& to_) {
  const auto& shape = in.shape;
  char* to = static_cast<char*>(to_.mutable_data_ptr());
  const bool in_place = in.item == in.sum_item;
  const bool large = in_place && to_.numel() * in.item >= kStreamBytes;
  const int64_t labels = in.block_labels(), tasks = ceil_div(shape.outputs(), labels);
  const int64_t g_stride = packed_stride(labels + 6, in.sum_item);
  const int64_t g_bytes = 128 * g_stride, c_bytes = (labels + 6) * in.widest() * in.sum_item;
  share_out(tasks, in.multiply_adds(), [&](auto next) {
    Scratch scratch(in.block_bytes() + g_bytes + (in_place ? 0 : c_bytes) + 3 * kLine);
    char* x = scratch.take(in.block_bytes() + kLine);
    char* g_packed = scratch.take(g_bytes);
    char* sums = in_place ? nullptr : scratch.take(c_bytes);
    int64_t packed_group = -1, packed_row = -1;
    for (int64_t task; (task = next()) < tasks;) {
      in.for_groups(task, labels, [&](int64_t g, int64_t begin, int64_t end) {
        const int64_t width = shape.width(g), block = in.block_rows(width);
        char* raw = to + (shape.weight[g] + (begin - shape.out[g]) * width) * in.item;
        char* c = in_place ? raw : sums;
        const bool lines =
            reinterpret_cast<uintptr_t>(c) % kLine == 0 && width * in.item % kLine == 0;
        for (int64_t row = 0; row < shape.batch; row += block) {
          const int64_t rows = std::min(block, shape.batch - row);
          if (g != packed_group || row != packed_row) {
            in.pack(g, nullptr, row, rows, in.sum_item, x);
          }
          packed_group = g;
          packed_row = row;
          sc_kernels().pack(
              in.format, {grad.data + (row * grad.stride + begin) * in.item, grad.stride, nullptr,
                          g_packed, g_stride / in.sum_item, rows, end - begin, 0, false});
          sc_kernels().outer(
              in.format, {g_packed, x, c, g_stride / in.sum_item,
                          packed_stride(width, in.sum_item) / in.sum_item, width, rows, end - begin,
                          width, row > 0, nullptr, 0, large && lines && row + rows == shape.batch});
        }
        if (!in_place) {
          const int64_t size = (end - begin) * width;
          sc_kernels().reduce(in.format, {c, 0, 1, 0, raw, 0, 1, size});
        }
      });
    }
  });
}

void sum_columns(const ScInputs& in, const ScGrad& grad, Tensor& to_) {
  constexpr int64_t kColumns = 2048;
  const int64_t columns = in.shape.outputs(), tasks = ceil_div(columns, kColumns);
  char* to = static_cast<char*>(to_.mutable_data_ptr());
  share_out(tasks, in.shape.batch * columns, [&](auto next) {
    for (int64_t task; (task = next()) < tasks;) {
      const int64_t first = task * kColumns;
      sc_kernels().column_sums(in.format,
                               {grad.data + first * in.item, grad.stride, in.shape.batch,
                                to + first * in.item, std::min(kColumns, columns - first)});
    }
  });
}

// The labels of one group in one run; a run is a task.
struct Segment {
  int64_t group, begin, end, run;
};

// At most 64 runs and as many segments more as there are groups, whatever the number of threads.
std::vector<Segment> segments_of(const ScInputs& in) {
  const int64_t labels = std::max<int64_t>(512, ceil_div(in.shape.outputs(), 64));
  std::vector<Segment> segments;
  for (int64_t run = 0; run * labels < in.shape.outputs(); ++run) {
    in.for_groups(run, labels, [&](int64_t g, int64_t begin, int64_t end) {
      segments.push_back({g, begin, end, run});
    });
  }
  return segments;
}

constexpr int64_t kPassRows = 256, kPackedLabels = 64;

// The gradients of some rows, as parts by segment and run.
struct Parts {
  std::vector<Segment> segments;
  std::vector<int64_t> begins;  // of the part of each segment, [rows, k_g]
  std::vector<int64_t> runs;    // [runs + 1] of segments
  Tensor own, generic;          // packed; generic: [runs, rows, s]

  Parts(const ScInputs& in, const Tensor& like, int64_t rows, bool of_x, bool of_generic)
      : segments(segments_of(in)), begins{0}, runs{0} {
    for (size_t i = 0; i < segments.size(); ++i) {
      begins.push_back(begins[i] + (of_x ? rows * in.shape.own(segments[i].group) : 0));
      if (i > 0 && segments[i].run != segments[i - 1].run) runs.push_back(i);
    }
    runs.push_back(segments.size());
    const int64_t shared = of_generic ? (runs.size() - 1) * rows * in.shape.generic : 0;
    own = empty<1>({begins.back()}, sum_dtype(like));
    generic = empty<1>({shared}, sum_dtype(like));
  }
};

struct InputGradients {
  const ScInputs& in;
  const ScGrad& grad;
  bool of_x, of_generic;
  Parts& parts;
  int64_t first, rows;  // of the batch

  char* own(size_t segment) const {
    return static_cast<char*>(parts.own.mutable_data_ptr()) + parts.begins[segment] * in.sum_item;
  }
  char* generic(int64_t run) const {
    return static_cast<char*>(parts.generic.mutable_data_ptr()) +
           run * rows * in.shape.generic * in.sum_item;
  }

  void add_segment(size_t i, int64_t run, char* w, char* g_packed) const {
    const Segment& segment = parts.segments[i];
    const auto& shape = in.shape;
    const int64_t g = segment.group, width = shape.width(g), item = in.sum_item;
    const int64_t w_stride = packed_stride(width, item) / item;
    const int64_t g_stride = packed_stride(rows, item) / item;
    for (int64_t label = segment.begin; label < segment.end; label += kPackedLabels) {
      const int64_t labels = std::min(kPackedLabels, segment.end - label);
      const char* from = in.weight_of(g, label);
      sc_kernels().pack(in.format, {from, width, nullptr, w, w_stride, labels, width, 0, false});
      sc_kernels().pack(in.format,
                        {grad.data + (first * grad.stride + label) * in.item, grad.stride, nullptr,
                         g_packed, g_stride, rows, labels, 0, true, false, labels});
      const int64_t more = std::min(kPackedLabels, segment.end - label - labels);
      const char* ahead = from + labels * width * in.item;
      const int64_t ahead_bytes = more * width * in.item;
      const int64_t s = shape.generic, k = shape.own(g);
      if (of_generic) {
        const bool later = i > static_cast<size_t>(parts.runs[run]) || label > segment.begin;
        sc_kernels().outer(in.format, {g_packed, w, generic(run), g_stride, w_stride, s, labels,
                                       rows, s, later, nullptr, 0});
      }
      if (of_x) {
        sc_kernels().outer(in.format, {g_packed, w + s * item, own(i), g_stride, w_stride, k,
                                       labels, rows, k, label > segment.begin, ahead, ahead_bytes});
      }
    }
  }

  void compute() const {
    const int64_t tasks = parts.runs.size() - 1;
    const int64_t w_bytes = kPackedLabels * packed_stride(in.widest(), in.sum_item) + 2 * kLine;
    const int64_t g_bytes = kPackedLabels * packed_stride(rows, in.sum_item);
    share_out(tasks, in.multiply_adds(), [&](auto next) {
      Scratch scratch(w_bytes + g_bytes + 2 * kLine);
      char *w = scratch.take(w_bytes), *g_packed = scratch.take(g_bytes);
      for (int64_t run; (run = next()) < tasks;) {
        for (int64_t i = parts.runs[run]; i < parts.runs[run + 1]; ++i) {
          add_segment(i, run, w, g_packed);
        }
      }
    });
  }

  void reduce(Tensor& grad_x, Tensor& grad_generic) const {
    const auto& segments = parts.segments;
    for (size_t i = 0, count; of_x && i < segments.size(); i += count) {
      const int64_t g = segments[i].group, k = in.shape.own(g), columns = in.shape.in.back();
      count = 1;
      while (i + count < segments.size() && segments[i + count].group == g) ++count;
      char* to = static_cast<char*>(grad_x.mutable_data_ptr()) +
                 (first * columns + in.shape.in_begin(g)) * in.item;
      sc_kernels().reduce(in.format, {own(i), parts.begins[i + 1] - parts.begins[i],
                                      static_cast<int64_t>(count), k, to, columns, rows, k});
    }
    if (of_generic) {
      const int64_t s = in.shape.generic, runs = parts.runs.size() - 1;
      char* to = static_cast<char*>(grad_generic.mutable_data_ptr()) + first * s * in.item;
      sc_kernels().reduce(in.format, {generic(0), rows * s, runs, s, to, s, rows, s});
    }
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> sc_linear_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& weight_, const MaybeTensor& generic_,
    const std::optional<Offsets>& in_offsets, const Offsets& out_offsets,
    const std::vector<bool>& needed) {
  const auto shape = check_sc_linear(x_, weight_, std::nullopt, generic_, in_offsets, out_offsets);
  check_sc_output("grad", grad_, shape, x_);
  const Tensor grad = dense_rows(grad_), x = dense_rows(x_), weight = as_contiguous(weight_);
  const MaybeTensor generic = with_dense_rows(generic_);
  const auto make = [&]<size_t dims>(bool wanted, std::array<int64_t, dims> size, bool zeros) {
    if (!wanted) return empty<1>({0}, x.scalar_type());
    return zeros ? torch::stable::new_zeros(x, std::vector<int64_t>(size.begin(), size.end()))
                 : empty(size, x.scalar_type());
  };
  const bool nothing = shape.batch == 0 || shape.outputs() == 0;
  bool gaps = nothing;  // columns of x that no label reads
  for (int64_t g = 0; g < shape.groups(); ++g) gaps |= shape.labels(g) == 0;
  Tensor grad_x = make(needed[0], std::array{shape.batch, x.size(1)}, gaps);
  Tensor grad_w = make(needed[1], std::array{weight.size(0)}, nothing);
  Tensor grad_bias = make(needed[2], std::array{shape.outputs()}, nothing);
  Tensor grad_generic = make(needed[3], std::array{shape.batch, shape.generic}, nothing);
  if (nothing) return {grad_x, grad_w, grad_bias, grad_generic};
  const ScInputs in(shape, x, weight, generic);
  const ScGrad g{static_cast<const char*>(grad.const_data_ptr()), row_stride(grad)};
  const bool of_generic = needed[3] && shape.generic > 0;
  if (needed[0] && prefer_gemm(in, kGemmGradX)) {
    gemm_grad_x(shape, grad, weight, grad_x);
  } else if (needed[0] || of_generic) {
    Parts parts(in, x, std::min(kPassRows, shape.batch), needed[0], of_generic);
    for (int64_t row = 0; row < shape.batch; row += kPassRows) {
      const int64_t rows = std::min(kPassRows, shape.batch - row);
      const InputGradients gradients{in, g, needed[0], of_generic, parts, row, rows};
      gradients.compute();
      gradients.reduce(grad_x, grad_generic);
    }
  }
  if (needed[1] && prefer_gemm(in, kGemmGradWeight)) {
    gemm_grad_weight(shape, grad, x, grad_w);
  } else if (needed[1]) {
    grad_weight(in, g, grad_w);
  }
  if (needed[2]) sum_columns(in, g, grad_bias);
  return {grad_x, grad_w, grad_bias, grad_generic};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("sc_linear_backward", TORCH_BOX(&sc_linear_backward));
}

}  // namespace fastheads
