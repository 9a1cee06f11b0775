// The table of sc_linear's grouped products, and which kernel they go to.
#include <algorithm>

#include "sc_linear_grouped.cuh"

namespace fastheads {
namespace {

constexpr int kFilled = 48;  // problems a launch: parameters of a kernel stay below 4 KB
constexpr int64_t kElement = 2, kVector = 8;  // bytes of an element, elements of 16 bytes

struct Fill {
  GroupedTable table;
  const char *a, *b;
  char* d;
  const char* bias;  // or null
  int first, count;
  GroupedProblem problems[kFilled];
};

__global__ void fill_kernel(const __grid_constant__ Fill fill) {
  const int i = threadIdx.x, row = fill.first + i;
  if (i >= fill.count) return;
  const GroupedProblem& problem = fill.problems[i];
  const GroupedTable& table = fill.table;
  table.sizes[row] = {problem.m, problem.n, problem.k};
  table.a[row] = fill.a + problem.a * kElement;
  table.b[row] = fill.b + problem.b * kElement;
  table.a_pitch[row] = problem.a_pitch;
  table.b_pitch[row] = problem.b_pitch;
  char* d = fill.d + problem.d * kElement;
  const char* bias = fill.bias == nullptr ? nullptr : fill.bias + problem.bias * kElement;
  const bool aligned = reinterpret_cast<uintptr_t>(d) % 16 == 0 && problem.d_pitch % kVector == 0;
  table.outputs[row] = {d, bias, problem.d_pitch, aligned};
}

constexpr int kCopied = 128, kCopyThreads = 256;

struct Copy {
  const uint16_t* from;  // [rows, from_pitch]
  uint16_t* to;          // [rows, to_pitch]
  int64_t rows, from_pitch, to_pitch;
  PaddedColumns columns[kCopied];
};

// blockIdx.y: which columns. A thread has 8 of a row at a time.
__global__ void copy_kernel(const __grid_constant__ Copy copy) {
  const PaddedColumns columns = copy.columns[blockIdx.y];
  const int64_t vectors = (columns.count + kVector - 1) / kVector;
  for (int64_t i = int64_t(blockIdx.x) * kCopyThreads + threadIdx.x; i < vectors * copy.rows;
       i += int64_t(gridDim.x) * kCopyThreads) {
    const int64_t row = i / vectors, column = i % vectors * kVector;
    const uint16_t* from = copy.from + row * copy.from_pitch + columns.from + column;
    uint16_t elements[kVector];
#pragma unroll
    for (int e = 0; e < kVector; ++e) elements[e] = column + e < columns.count ? from[e] : 0;
    uint4 vector;
    memcpy(&vector, elements, sizeof(vector));
    *reinterpret_cast<uint4*>(copy.to + row * copy.to_pitch + columns.to + column) = vector;
  }
}

const char* address(const Tensor* tensor) {
  return tensor == nullptr ? nullptr : static_cast<const char*>(tensor->const_data_ptr());
}

// Arrays one after the other, each at a multiple of 16 bytes.
GroupedTable table_in(char* memory, int64_t problems) {
  const auto take = [&]<typename T>(T*& array) {
    array = reinterpret_cast<T*>(memory);
    memory += ceil_div(problems * static_cast<int64_t>(sizeof(T)), 16) * 16;
  };
  GroupedTable table{static_cast<int>(problems)};
  take(table.sizes);
  take(table.outputs);
  take(table.a);
  take(table.b);
  take(table.a_pitch);
  take(table.b_pitch);
  return table;
}

bool is_aligned(const GroupedCall& call) {
  const auto begins = [](const Tensor* tensor) {
    return reinterpret_cast<uintptr_t>(address(tensor)) % 16 == 0;
  };
  return begins(call.a) && begins(call.b) &&
         std::ranges::all_of(call.problems, [](const GroupedProblem& problem) {
           return (problem.a | problem.b | problem.a_pitch | problem.b_pitch) % kVector == 0;
         });
}

template <typename scalar_t>
void run(GroupedPass pass, const GroupedTable& table, bool add, const Tensor& like,
         cudaStream_t stream) {
  using enum GroupedPass;
  const auto kernel = pass == kForward       ? run_grouped<kForward, scalar_t>
                      : pass == kForwardWide ? run_grouped<kForwardWide, scalar_t>
                      : pass == kForwardFew  ? run_grouped<kForwardFew, scalar_t>
                      : pass == kGradX       ? run_grouped<kGradX, scalar_t>
                                             : run_grouped<kGradWeight, scalar_t>;
  kernel(table, add, like, stream);
}

}  // namespace

bool has_grouped(const Tensor& x) {
  int major = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.get_device_index()));
  const auto dtype = x.scalar_type();
  return major == 9 && (dtype == ScalarType::Half || dtype == ScalarType::BFloat16);
}

bool launch_grouped(const GroupedCall& call) {
  if (!is_aligned(call)) return false;
  const auto problems = static_cast<int64_t>(call.problems.size());
  if (problems == 0) return true;
  const cudaStream_t stream = current_stream(*call.d);
  constexpr int64_t kRowBytes = sizeof(GroupedSize) + sizeof(GroupedOutput) + 4 * sizeof(int64_t);
  Tensor memory =
      torch::stable::new_empty(*call.d, {problems * kRowBytes + 6 * 16}, ScalarType::Byte);
  Fill fill{table_in(static_cast<char*>(memory.mutable_data_ptr()), problems), address(call.a),
            address(call.b), const_cast<char*>(address(call.d)), address(call.bias)};
  for (int64_t first = 0; first < problems; first += kFilled) {
    fill.first = static_cast<int>(first);
    fill.count = static_cast<int>(std::min<int64_t>(kFilled, problems - first));
    std::copy_n(call.problems.begin() + first, fill.count, fill.problems);
    fill_kernel<<<1, kFilled, 0, stream>>>(fill);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  if (call.d->scalar_type() == ScalarType::Half) {
    run<torch::headeronly::Half>(call.pass, fill.table, call.add, *call.d, stream);
  } else {
    run<torch::headeronly::BFloat16>(call.pass, fill.table, call.add, *call.d, stream);
  }
  return true;
}

void copy_columns(const Tensor& from, const std::vector<PaddedColumns>& columns, const Tensor& to) {
  Copy copy{reinterpret_cast<const uint16_t*>(address(&from)),
            reinterpret_cast<uint16_t*>(const_cast<char*>(address(&to))), to.size(0),
            from.stride(0), to.size(1)};
  const auto all = static_cast<int64_t>(columns.size());
  for (int64_t first = 0; first < all; first += kCopied) {
    const int64_t count = std::min<int64_t>(kCopied, all - first);
    std::copy_n(columns.begin() + first, count, copy.columns);
    int64_t most = 1;
    for (int64_t i = 0; i < count; ++i) most = std::max(most, copy.columns[i].count);
    const int64_t blocks = ceil_div(ceil_div(most, kVector) * copy.rows, kCopyThreads);
    const dim3 grid(std::min<int64_t>(blocks, 1024), static_cast<unsigned>(count));
    copy_kernel<<<grid, kCopyThreads, 0, current_stream(to)>>>(copy);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace fastheads
