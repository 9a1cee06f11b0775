// sc_linear_conditional on CUDA: pairs sorted by group, then the streaming kernel, which reads each
// weight for kRows pairs at a time. How many values there are is known on the device alone, so each
// call waits for it once.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include <tuple>

#include "../sc_linear.h"
#include "sc_linear_rows.cuh"

namespace fastheads {
namespace {

constexpr int kPairThreads = 128;
constexpr int64_t kNone = INT64_MAX;

struct Pairs {
  const int64_t* groups;  // [P]
  const int64_t* rows;    // [P] or null
  const int64_t* out;     // [M + 1]
  int64_t count, num_groups, num_rows;
};

__device__ int64_t thread_index() {
  return int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}

// lengths[p + 1]: labels of pair p. first_bad: the first pair of no group, and of no row.
__global__ void lengths_kernel(const Pairs pairs, int64_t* lengths, long long* first_bad) {
  const int64_t p = thread_index();
  if (p == 0) lengths[0] = 0;
  if (p >= pairs.count) return;
  const int64_t g = pairs.groups[p];
  const bool known = g >= 0 && g < pairs.num_groups;
  lengths[p + 1] = known ? pairs.out[g + 1] - pairs.out[g] : 0;
  if (!known) atomicMin(first_bad, static_cast<long long>(p));
  if (pairs.rows != nullptr && (pairs.rows[p] < 0 || pairs.rows[p] >= pairs.num_rows)) {
    atomicMin(first_bad + 1, static_cast<long long>(p));
  }
}

// begins[g]: how many of the sorted groups come before g; g = 0 ... M
__global__ void begins_kernel(const int64_t* sorted, int64_t count, int64_t num_groups,
                              int64_t* begins) {
  const int64_t g = thread_index();
  if (g > num_groups) return;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < g) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  begins[g] = low;
}

std::tuple<Tensor, Tensor> sorted(const Tensor& values) {
  AtenTensorHandle first = nullptr, second = nullptr;
  int32_t stable = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cuda_sort_stable(values.get(), &stable, 0, 0, &first, &second));
  return {Tensor(first), Tensor(second)};
}

Tensor summed(const Tensor& values) {
  AtenTensorHandle sums = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_cumsum(values.get(), 0, nullptr, &sums));
  return Tensor(sums);
}

void check_not_capturing(cudaStream_t stream) {
  auto capture = cudaStreamCaptureStatusNone;
  STD_CUDA_CHECK(cudaStreamIsCapturing(stream, &capture));
  STD_TORCH_CHECK(capture == cudaStreamCaptureStatusNone,
                  "sc_linear_conditional: the number of values waits for the device, which no CUDA "
                  "graph can capture");
}

// What the host must know of the pairs.
struct Plan {
  std::vector<int64_t> begins;  // [M + 1], by group
  Tensor order, offsets;        // [P], [P + 1]
};

Plan plan_of(const ScLinearShape& shape, const Tensor& groups, const MaybeTensor& rows,
             const Offsets& out, cudaStream_t stream) {
  check_not_capturing(stream);
  const int64_t count = groups.size(0), num_groups = shape.groups();
  const size_t table_bytes = (num_groups + 1) * sizeof(int64_t);
  // On the device: first_bad [2], begins [M + 1], out [M + 1].
  Tensor table = torch::stable::new_empty(groups, {2 + 2 * (num_groups + 1)});
  int64_t* first_bad = table.mutable_data_ptr<int64_t>();
  int64_t *begins = first_bad + 2, *device_out = begins + num_groups + 1;
  const std::vector<int64_t> none{kNone, kNone};
  STD_CUDA_CHECK(
      cudaMemcpyAsync(first_bad, none.data(), 2 * sizeof(int64_t), cudaMemcpyHostToDevice, stream));
  STD_CUDA_CHECK(
      cudaMemcpyAsync(device_out, out.data(), table_bytes, cudaMemcpyHostToDevice, stream));

  const auto blocks = [](int64_t threads) {
    return static_cast<unsigned>(ceil_div(threads, kPairThreads));
  };
  Tensor lengths = torch::stable::new_empty(groups, {count + 1});
  const Pairs pairs{groups.const_data_ptr<int64_t>(),
                    rows ? rows->const_data_ptr<int64_t>() : nullptr,
                    device_out,
                    count,
                    num_groups,
                    shape.batch};
  lengths_kernel<<<blocks(count), kPairThreads, 0, stream>>>(
      pairs, lengths.mutable_data_ptr<int64_t>(), reinterpret_cast<long long*>(first_bad));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const auto [by_group, order] = sorted(groups);
  begins_kernel<<<blocks(num_groups + 1), kPairThreads, 0, stream>>>(
      by_group.const_data_ptr<int64_t>(), count, num_groups, begins);
  STD_CUDA_KERNEL_LAUNCH_CHECK();

  std::vector<int64_t> host(2 + num_groups + 1);
  STD_CUDA_CHECK(cudaMemcpyAsync(host.data(), first_bad, host.size() * sizeof(int64_t),
                                 cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  STD_TORCH_CHECK(host[0] == kNone, "sc_linear_conditional: groups must be from 0 to ",
                  num_groups - 1, ", got another at ", host[0]);
  STD_TORCH_CHECK(host[1] == kNone, "sc_linear_conditional: rows must be from 0 to ",
                  shape.batch - 1, ", got another at ", host[1]);
  return {{host.begin() + 2, host.end()}, order, summed(lengths)};
}

std::tuple<Tensor, Tensor> sc_linear_conditional(const Tensor& x_, const Tensor& weight_,
                                                 const MaybeTensor& bias_, const MaybeTensor& rows_,
                                                 const Tensor& groups_,
                                                 const std::optional<Offsets>& in,
                                                 const Offsets& out) {
  const auto shape = check_sc_linear_conditional(x_, weight_, bias_, rows_, groups_, in, out);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = dense_rows(x_), weight = torch::stable::contiguous(weight_);
  const Tensor groups = torch::stable::contiguous(groups_);
  Tensor rows, bias;
  if (rows_) rows = torch::stable::contiguous(*rows_);
  if (bias_) bias = torch::stable::contiguous(*bias_);
  if (groups.numel() == 0) {
    return {torch::stable::new_empty(x, {0}), torch::stable::new_zeros(groups, {1})};
  }
  const cudaStream_t stream = current_stream(x);
  const Plan plan = plan_of(shape, groups, rows_ ? MaybeTensor(rows) : std::nullopt, out, stream);

  int64_t total = 0;
  std::vector<RowsGroup> tasks;
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const int64_t first = plan.begins[g], pairs = plan.begins[g + 1] - first;
    total += pairs * shape.labels(g);
    if (pairs == 0) continue;
    tasks.push_back({shape.weight[g], shape.in_begin(g), shape.out[g], first, pairs,
                     static_cast<int>(shape.labels(g)), static_cast<int>(shape.own(g)), 0, false});
  }
  Tensor values = torch::stable::new_empty(x, {total});
  if (total == 0) return {values, plan.offsets};
  FASTHEADS_DISPATCH(x, "sc_linear_conditional", [&] {
    RowsProblem<scalar_t> problem{};
    problem.x = x.const_data_ptr<scalar_t>();
    problem.x_stride = std::max<int64_t>(x.stride(0), x.size(1));
    problem.weight = weight.const_data_ptr<scalar_t>();
    problem.bias = bias_ ? bias.const_data_ptr<scalar_t>() : nullptr;
    problem.y = values.mutable_data_ptr<scalar_t>();
    problem.order = plan.order.const_data_ptr<int64_t>();
    problem.rows = rows_ ? rows.const_data_ptr<int64_t>() : nullptr;
    problem.offsets = plan.offsets.const_data_ptr<int64_t>();
    launch_rows(problem, tasks, stream);
  });
  return {values, plan.offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("sc_linear_conditional", TORCH_BOX(&sc_linear_conditional));
}

}  // namespace fastheads
