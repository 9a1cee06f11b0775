// sc_linear on the CPU: every weight is read once, and nothing but rows of x is copied.
#include "../sc_linear.h"

#include <numeric>
#include <tuple>

#include "sc_linear_gemm.h"

namespace fastheads {
namespace {

// Which rows of x each group multiplies, and where in y each result begins.
struct Wanted {
  std::vector<int64_t> begins;  // of y, by rows of a group after rows of another
  std::vector<int64_t> picked;  // rows of x, likewise; or none: every group all of them
  std::vector<int64_t> groups;  // [M + 1] where the rows of a group begin, likewise

  int64_t first(int64_t g) const { return picked.empty() ? 0 : groups[g]; }
  int64_t count(int64_t g) const {
    return groups.empty() ? static_cast<int64_t>(begins.size()) : groups[g + 1] - groups[g];
  }
};

// Tasks are blocks of labels, of one block of rows after the other where all rows are wanted: a
// block packed for a group serves all its labels.
void multiply(const ScInputs& in, const Wanted& wanted, const MaybeTensor& bias_, bool columns,
              Tensor& y_, bool accumulate) {
  const auto& shape = in.shape;
  const char* bias = bias_ ? static_cast<const char*>(bias_->const_data_ptr()) : nullptr;
  char* y = static_cast<char*>(y_.mutable_data_ptr());
  const auto all = static_cast<int64_t>(wanted.begins.size());
  const int64_t most = wanted.groups.empty() ? in.panel_rows(in.widest()) : 0;
  const int64_t pass = most > 0 ? in.even_panels(all, most) : all;
  const int64_t labels = in.block_labels(), blocks = ceil_div(shape.outputs(), labels);
  const int64_t tasks = ceil_div(all, pass) * blocks;
  share_out(tasks, in.multiply_adds(), [&](auto next) {
    const int64_t bytes = std::max(in.block_bytes(), 2 * kBlockBytes);
    Scratch scratch(bytes);
    char* x = scratch.take(bytes);
    int64_t packed_group = -1, packed_row = -1;  // of which all wanted rows are packed
    for (int64_t task; (task = next()) < tasks;) {
      in.for_groups(task % blocks, labels, [&](int64_t g, int64_t begin, int64_t end) {
        const int64_t first = task / blocks * pass, width = shape.width(g);
        const int64_t last = std::min(first + pass, wanted.count(g));
        const int64_t panels = last - first > kFewRows ? in.panel_rows(width) : 0;
        const int64_t block = panels > 0 ? panels : in.block_rows(width);
        const int64_t* picked =
            wanted.picked.empty() ? nullptr : wanted.picked.data() + wanted.first(g);
        for (int64_t row = first; row < last; row += block) {
          const int64_t rows = std::min(block, last - row);
          if (packed_group != g || packed_row != row) {
            if (panels > 0) {
              in.pack_panels(g, picked, row, rows, x);
            } else {
              in.pack(g, picked, row, rows, in.dots_item, x);
            }
          }
          packed_group = g;
          packed_row = row;
          const int64_t column = columns ? begin : begin - shape.out[g];
          (panels > 0 ? sc_kernels().lanes : sc_kernels().dots)(
              in.format,
              {in.weight_of(g, begin), x, bias != nullptr ? bias + begin * in.item : nullptr,
               y + column * in.item, &wanted.begins[wanted.first(g) + row],
               packed_stride(width, in.dots_item) / in.dots_item, width, rows, end - begin,
               accumulate});
        }
      });
    }
  });
}

void forward(const ScLinearShape& shape, const Tensor& x, const Tensor& weight,
             const MaybeTensor& bias, const MaybeTensor& generic, Tensor& y, bool accumulate) {
  if (shape.batch == 0 || shape.outputs() == 0) return;
  const ScInputs in(shape, x, weight, generic);
  if (!accumulate && prefer_gemm(in, kGemmForward)) return gemm_forward(shape, x, weight, bias, y);
  Wanted wanted{std::vector<int64_t>(shape.batch), {}, {}};
  for (int64_t b = 0; b < shape.batch; ++b) wanted.begins[b] = b * row_stride(y);
  multiply(in, wanted, bias, true, y, accumulate);
}

Tensor sc_linear(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                 const MaybeTensor& generic, const std::optional<Offsets>& in, const Offsets& out) {
  const auto shape = check_sc_linear(x, weight, bias, generic, in, out);
  Tensor y = empty<2>({shape.batch, shape.outputs()}, x.scalar_type());
  forward(shape, dense_rows(x), as_contiguous(weight), contiguous(bias), with_dense_rows(generic),
          y, false);
  return y;
}

void sc_linear_(Tensor y, const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                const MaybeTensor& generic, const std::optional<Offsets>& in, const Offsets& out,
                bool accumulate) {
  const auto shape = check_sc_linear(x, weight, bias, generic, in, out);
  check_sc_in_place(y, shape, x, weight, bias, generic);
  Tensor dense = dense_rows(y);
  forward(shape, dense_rows(x), as_contiguous(weight), contiguous(bias), with_dense_rows(generic),
          dense, accumulate);
  if (!has_dense_rows(y)) torch::stable::copy_(y, dense);
}

// Pairs by group; in the same group they keep their order.
Wanted by_group(const ScLinearShape& shape, int64_t pairs, const int64_t* rows,
                const int64_t* groups, const int64_t* begins) {
  Wanted wanted{std::vector<int64_t>(pairs), std::vector<int64_t>(pairs),
                std::vector<int64_t>(shape.groups() + 1)};
  for (int64_t p = 0; p < pairs; ++p) ++wanted.groups[groups[p] + 1];
  std::partial_sum(wanted.groups.begin(), wanted.groups.end(), wanted.groups.begin());
  std::vector<int64_t> place = wanted.groups;
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t at = place[groups[p]]++;
    wanted.begins[at] = begins[p];
    wanted.picked[at] = rows != nullptr ? rows[p] : p;
  }
  return wanted;
}

std::tuple<Tensor, Tensor> sc_linear_conditional(const Tensor& x_, const Tensor& weight_,
                                                 const MaybeTensor& bias_, const MaybeTensor& rows_,
                                                 const Tensor& groups_,
                                                 const std::optional<Offsets>& in,
                                                 const Offsets& out) {
  const auto shape = check_sc_linear_conditional(x_, weight_, bias_, rows_, groups_, in, out);
  const Tensor x = dense_rows(x_), weight = as_contiguous(weight_);
  const Tensor groups = as_contiguous(groups_);
  const MaybeTensor bias = contiguous(bias_), rows = contiguous(rows_);
  const int64_t pairs = groups.size(0);
  const int64_t* group = groups.const_data_ptr<int64_t>();
  const int64_t* row = rows ? rows->const_data_ptr<int64_t>() : nullptr;
  Tensor offsets = torch::stable::new_empty(groups, {pairs + 1});
  int64_t* begins = offsets.mutable_data_ptr<int64_t>();
  begins[0] = 0;
  for (int64_t p = 0; p < pairs; ++p) {
    STD_TORCH_CHECK(group[p] >= 0 && group[p] < shape.groups(),
                    "sc_linear_conditional: groups must be from 0 to ", shape.groups() - 1,
                    ", got ", group[p], " at ", p);
    STD_TORCH_CHECK(row == nullptr || (row[p] >= 0 && row[p] < shape.batch),
                    "sc_linear_conditional: rows must be from 0 to ", shape.batch - 1, ", got ",
                    row == nullptr ? p : row[p], " at ", p);
    begins[p + 1] = begins[p] + shape.labels(group[p]);
  }
  Tensor values = empty<1>({begins[pairs]}, x.scalar_type());
  if (begins[pairs] > 0) {
    multiply({shape, x, weight, std::nullopt}, by_group(shape, pairs, row, group, begins), bias,
             false, values, false);
  }
  return {values, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("sc_linear", TORCH_BOX(&sc_linear));
  m.impl("sc_linear_", TORCH_BOX(&sc_linear_));
  m.impl("sc_linear_conditional", TORCH_BOX(&sc_linear_conditional));
}

}  // namespace fastheads
