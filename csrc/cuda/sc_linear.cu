// sc_linear on CUDA: few rows by the streaming kernel, many by one launch for all groups where
// there is one, else by products of PyTorch.
#include <tuple>

#include "sc_linear_grouped.cuh"
#include "sc_linear_products.cuh"
#include "sc_linear_rows.cuh"

namespace fastheads {
namespace {

// Up to here W is read once by the streaming kernel, and tensor cores cannot be filled.
constexpr int64_t kFewRows = 16;

// Rows from which the grouped kernels are chosen. No GPU has measured them yet, so they never are.
constexpr int64_t kGroupedRows = INT64_MAX;
// Up to here their operands are swapped, so that labels fill the tiles; from there on tiles are
// wide.
constexpr int64_t kGroupedFew = 64, kGroupedWide = 1024;

enum Kernel { kChosen = -1, kProducts, kStreamed, kGrouped };

const void* data(const MaybeTensor& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// y (+)= generic and own columns times W^T, plus bias. Without x, only the bias.
void stream_rows(const ScLinearShape& shape, const Tensor* x, const Tensor& weight,
                 const MaybeTensor& bias, const MaybeTensor& generic, const Tensor& y, bool add) {
  std::vector<RowsGroup> groups;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t inputs = x == nullptr ? 0 : shape.own(g);
    groups.push_back({shape.weight[g], x == nullptr ? 0 : shape.in_begin(g), shape.out[g], 0,
                      shape.batch, static_cast<int>(shape.labels(g)), static_cast<int>(inputs), 0,
                      false});
  }
  FASTHEADS_DISPATCH(weight, "sc_linear", [&] {
    RowsProblem<scalar_t> problem{};
    if (x != nullptr) {
      problem.x = x->const_data_ptr<scalar_t>();
      problem.x_stride = row_stride(*x);
      problem.generic = static_cast<const scalar_t*>(data(generic));
      problem.generic_stride = generic ? row_stride(*generic) : 0;
      problem.generic_size = static_cast<int>(shape.generic);
    }
    problem.weight = weight.const_data_ptr<scalar_t>();
    problem.bias = static_cast<const scalar_t*>(data(bias));
    problem.y = static_cast<scalar_t*>(const_cast<void*>(y.const_data_ptr()));
    problem.y_stride = row_stride(y);
    problem.add = add;
    launch_rows(problem, groups, current_stream(weight));
  });
}

// All groups in one launch. False, and nothing written, where they do not fit.
bool group_forward(const ScLinearShape& shape, const Tensor& x, const Tensor& weight,
                   const MaybeTensor& bias, const MaybeTensor& generic, const Tensor& y, bool add) {
  if (generic || !has_grouped(x)) return false;
  const bool few = shape.batch <= kGroupedFew;
  GroupedCall call{few                           ? GroupedPass::kForwardFew
                   : shape.batch >= kGroupedWide ? GroupedPass::kForwardWide
                                                 : GroupedPass::kForward,
                   {},
                   few ? &weight : &x,
                   few ? &x : &weight,
                   &y,
                   bias ? &*bias : nullptr,
                   add};
  const auto rows = static_cast<int>(shape.batch);
  for (int64_t g = 0; g < shape.groups(); ++g) {
    if (shape.labels(g) == 0) continue;
    if (shape.own(g) == 0) return false;
    const auto labels = static_cast<int>(shape.labels(g)), inputs = static_cast<int>(shape.own(g));
    GroupedProblem problem{shape.in_begin(g),
                           shape.weight[g],
                           shape.out[g],
                           shape.out[g],
                           row_stride(x),
                           inputs,
                           row_stride(y),
                           rows,
                           labels,
                           inputs};
    if (few) {
      std::swap(problem.a, problem.b);
      std::swap(problem.a_pitch, problem.b_pitch);
      std::swap(problem.m, problem.n);
    }
    call.problems.push_back(problem);
  }
  return launch_grouped(call);
}

// The gradient of y with every group at a multiple of 16 bytes, and where the groups begin in it.
std::pair<Tensor, Offsets> padded(const ScLinearShape& shape, const Tensor& grad) {
  constexpr int64_t kVector = 8;
  const auto misaligned = [](int64_t elements) { return elements % kVector != 0; };
  Offsets begins(shape.out.begin(), shape.out.end() - 1);
  if (reinterpret_cast<uintptr_t>(grad.const_data_ptr()) % 16 == 0 &&
      !misaligned(row_stride(grad)) && std::ranges::none_of(begins, misaligned)) {
    return {grad, begins};
  }
  std::vector<PaddedColumns> columns;
  int64_t end = 0;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    begins[g] = end;
    if (shape.labels(g) > 0) columns.push_back({shape.out[g], end, shape.labels(g)});
    end += ceil_div(shape.labels(g), kVector) * kVector;
  }
  const Tensor to = torch::stable::new_empty(grad, {shape.batch, end});
  copy_columns(grad, columns, to);
  return {to, begins};
}

// Gradients of x and of the weight, each in one launch; empty tensors are not needed.
bool group_gradients(const ScLinearShape& shape, const Tensor& grad_, const Tensor& x,
                     const Tensor& weight, const MaybeTensor& generic, const Tensor& grad_x,
                     const Tensor& grad_weight) {
  if (generic || !has_grouped(x)) return false;
  const auto [grad, begins] = padded(shape, grad_);
  GroupedCall of_x{GroupedPass::kGradX, {}, &grad, &weight, &grad_x, nullptr, false};
  GroupedCall of_weight{GroupedPass::kGradWeight, {}, &grad, &x, &grad_weight, nullptr, false};
  const auto rows = static_cast<int>(shape.batch);
  for (int64_t g = 0; g < shape.groups(); ++g) {
    if (shape.labels(g) == 0 || shape.own(g) == 0) continue;
    const auto labels = static_cast<int>(shape.labels(g)), inputs = static_cast<int>(shape.own(g));
    of_x.problems.push_back({begins[g], shape.weight[g], shape.in_begin(g), 0, row_stride(grad),
                             inputs, x.size(1), rows, inputs, labels});
    of_weight.problems.push_back({begins[g], shape.in_begin(g), shape.weight[g], 0,
                                  row_stride(grad), row_stride(x), inputs, labels, inputs, rows});
  }
  return (grad_x.numel() == 0 || launch_grouped(of_x)) &&
         (grad_weight.numel() == 0 || launch_grouped(of_weight));
}

void check_falls_back(bool may) {
  STD_TORCH_CHECK(may, "sc_linear: no grouped kernel for these sizes, dtype and device");
}

MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(torch::stable::contiguous(*tensor)) : tensor;
}

MaybeTensor with_dense_rows(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(dense_rows(*tensor)) : tensor;
}

void forward(const ScLinearShape& shape, const Tensor& x_, const Tensor& weight_,
             const MaybeTensor& bias_, const MaybeTensor& generic_, const Tensor& y, bool add,
             Kernel kernel) {
  if (y.numel() == 0) return;
  const Tensor x = dense_rows(x_), weight = torch::stable::contiguous(weight_);
  const MaybeTensor bias = contiguous(bias_), generic = with_dense_rows(generic_);
  const bool chosen = kernel == kChosen;
  if (chosen) {
    kernel = shape.batch <= kFewRows       ? kStreamed
             : shape.batch >= kGroupedRows ? kGrouped
                                           : kProducts;
  }
  if (kernel == kStreamed) {
    stream_rows(shape, &x, weight, bias, generic, y, add);
    return;
  }
  if (kernel == kGrouped) {
    if (group_forward(shape, x, weight, bias, generic, y, add)) return;
    check_falls_back(chosen);
  }
  bool empty = false;  // a group that reads nothing: its columns are the bias, or 0
  for (const Run& run : runs_of(shape)) empty = empty || shape.width(run.first) == 0;
  Tensor out = y;
  if (bias && add) {
    stream_rows(shape, nullptr, weight, bias, std::nullopt, y, true);
  } else if (bias) {
    torch::stable::copy_(out, *bias);
  } else if (empty && !add) {
    torch::stable::zero_(out);
  }
  const bool filled = bias || empty;
  add_products(shape, x, weight, generic, y, add || filled);
}

Tensor launched(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                const MaybeTensor& generic, const std::optional<Offsets>& in, const Offsets& out,
                int64_t kernel) {
  const auto shape = check_sc_linear(x, weight, bias, generic, in, out);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = torch::stable::new_empty(x, {shape.batch, shape.outputs()});
  forward(shape, x, weight, bias, generic, y, false, static_cast<Kernel>(kernel));
  return y;
}

Tensor sc_linear(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                 const MaybeTensor& generic, const std::optional<Offsets>& in, const Offsets& out) {
  return launched(x, weight, bias, generic, in, out, kChosen);
}

void sc_linear_(Tensor y, const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                const MaybeTensor& generic, const std::optional<Offsets>& in, const Offsets& out,
                bool accumulate) {
  const auto shape = check_sc_linear(x, weight, bias, generic, in, out);
  check_sc_in_place(y, shape, x, weight, bias, generic);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor dense = dense_rows(y);
  forward(shape, x, weight, bias, generic, dense, accumulate, kChosen);
  if (!has_dense_rows(y)) torch::stable::copy_(y, dense);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_launched(
    const Tensor& grad_, const Tensor& x_, const Tensor& weight_, const MaybeTensor& generic_,
    const std::optional<Offsets>& in, const Offsets& out, const std::vector<bool>& needed,
    int64_t kernel) {
  const auto shape = check_sc_linear(x_, weight_, std::nullopt, generic_, in, out);
  check_sc_output("grad", grad_, shape, x_);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor grad = dense_rows(grad_), x = dense_rows(x_);
  const Tensor weight = torch::stable::contiguous(weight_);
  const MaybeTensor generic = with_dense_rows(generic_);
  // Zeros: groups without labels leave their columns untouched.
  const auto zeros = [&](bool wanted, std::initializer_list<int64_t> sizes) {
    return wanted ? torch::stable::new_zeros(x, sizes) : torch::stable::new_empty(x, {0});
  };
  Tensor grad_x = zeros(needed[0], {shape.batch, x.size(1)});
  Tensor grad_weight = zeros(needed[1], {weight.size(0)});
  Tensor grad_bias = zeros(needed[2], {shape.outputs()});
  Tensor grad_generic = zeros(needed[3], {shape.batch, shape.generic});
  if (grad.numel() == 0) return {grad_x, grad_weight, grad_bias, grad_generic};
  const bool chosen = kernel == kChosen;
  const bool grouped = kernel == kGrouped || (chosen && shape.batch >= kGroupedRows);
  if (!grouped || !group_gradients(shape, grad, x, weight, generic, grad_x, grad_weight)) {
    check_falls_back(chosen || !grouped);
    add_gradients(shape, grad, x, weight, generic, grad_x, grad_weight);
  }
  if (needed[2]) {
    const std::array<int64_t, 1> rows{0};
    grad_bias = torch::stable::sum(grad, {{rows.data(), 1}});
  }
  if (grad_generic.numel() > 0) grad_generic = generic_gradient(shape, grad, weight);
  return {grad_x, grad_weight, grad_bias, grad_generic};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sc_linear_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const MaybeTensor& generic,
    const std::optional<Offsets>& in, const Offsets& out, const std::vector<bool>& needed) {
  return backward_launched(grad, x, weight, generic, in, out, needed, kChosen);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("sc_linear", TORCH_BOX(&sc_linear));
  m.impl("sc_linear_", TORCH_BOX(&sc_linear_));
  m.impl("sc_linear_backward", TORCH_BOX(&sc_linear_backward));
  m.impl("_sc_linear_launched", TORCH_BOX(&launched));
  m.impl("_sc_linear_backward_launched", TORCH_BOX(&backward_launched));
}

// Only to compare kernels: 0 products, 1 streamed (forward only), 2 grouped.
STABLE_TORCH_LIBRARY_FRAGMENT(fastheads, m) {
  m.def(
      "_sc_linear_launched(Tensor x, Tensor weight, Tensor? bias, Tensor? generic, "
      "int[]? in_offsets, int[] out_offsets, int kernel) -> Tensor");
  m.def(
      "_sc_linear_backward_launched(Tensor grad, Tensor x, Tensor weight, Tensor? generic, "
      "int[]? in_offsets, int[] out_offsets, bool[4] needed, int kernel) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_generic)");
}

}  // namespace fastheads
