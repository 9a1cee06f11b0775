// sc_sigmoid_loss on CUDA: a block for a group of one row, or of a block of rows where sums over
// rows are wanted, so that no column is added to by two blocks.
#include <algorithm>
#include <tuple>

#include "../sc_sigmoid_loss.h"
#include "common.cuh"

namespace fastheads {
namespace {

using MaybeTensor = std::optional<Tensor>;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRun = 16;               // factors 1 + e^-|z| that share a logarithm
constexpr int kHeldBytes = 46 * 1024;  // of a tile in shared memory

// logits: [B, columns] of the given pitch; indices: [nonzeros]; offsets: [B + 1]; groups: [M + 1];
// sums: [2, B, M]; gamma_columns, bias_columns: [blocks of rows, columns] or null
template <typename scalar_t>
struct Problem {
  using acc = acc_t<scalar_t>;
  ScSigmoidLossShape shape;
  scalar_t* logits;
  const int64_t *indices, *offsets, *groups;
  const acc *values, *gamma, *label_bias, *label_weights;
  double* sums;
  acc *gamma_columns, *bias_columns;
  int64_t nonzeros, block;
  int tile;  // labels that are held at a time
  acc scale;
  bool per_label, normalize, with_loss, with_grad;
};

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}
__device__ inline float inverse_of(float x) {
  return __fdividef(1.f, x);
}
__device__ inline double inverse_of(double x) {
  return 1 / x;
}

// The sum over all threads, in all of them.
__device__ inline double block_sum(double sum, double* warps) {
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += warps[w];
  __syncthreads();  // warps is used again
  return sum;
}

// The first of sorted[begin:end] that is not below the label.
__device__ inline int64_t lower_bound(const int64_t* sorted, int64_t begin, int64_t end,
                                      int64_t label) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (sorted[middle] < label) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// One row and group, for all threads of a block.
template <typename scalar_t>
struct Segment {
  using acc = acc_t<scalar_t>;

  const Problem<scalar_t>& p;
  acc* held;
  double* warps;
  int64_t row, group;
  int column, size;     // column: the first of the group
  int64_t first, last;  // of the targets
  scalar_t* logits;
  acc gamma, length, inverse;  // length: the norm
  double loss, dot;

  __device__ Segment(const Problem<scalar_t>& problem, acc* held, double* warps, int64_t row,
                     int64_t group)
      : p(problem), held(held), warps(warps), row(row), group(group), loss(0), dot(0) {
    const int64_t begin = p.groups[group] - p.groups[0];
    const int64_t end = p.groups[group + 1] - p.groups[0];
    const bool inside = 0 <= begin && begin <= end && end <= p.shape.columns;
    column = inside ? static_cast<int>(begin) : 0;
    size = inside ? static_cast<int>(end - begin) : 0;
    logits = p.logits + row * p.shape.pitch + column;
    gamma = p.gamma == nullptr || p.per_label ? acc(1) : p.gamma[group];
    length = inverse = 1;
    first = p.offsets[row];
    last = p.offsets[row + 1];
    if (first < 0 || last < first || last > p.nonzeros) first = 0, last = 0;
  }

  // Whether the row's targets are distinct, ascending labels.
  __device__ bool valid() const {
    bool wrong = p.offsets[row] != first || p.offsets[row + 1] != last;
    for (int64_t e = first + threadIdx.x; e < last; e += kThreads) {
      const int64_t label = p.indices[e];
      wrong |= label < 0 || label >= p.shape.labels;
      wrong |= e > first && p.indices[e - 1] >= label;
    }
    return !__syncthreads_or(wrong);
  }

  // l / norm, rounded as a division would be, so that a group of one label has no gradient.
  __device__ acc normalized(int j) const {
    const acc l = static_cast<acc>(logits[j]);
    if (!p.normalize) return l;
    const acc x = l * inverse;
    return x + (l - x * length) * inverse;
  }

  // A factor of a gradient that is 0, but for its rounding, where z is -inf.
  __device__ static acc finite(acc x) { return isinf(x) && x < 0 ? acc(0) : x; }

  __device__ double norm() {
    acc squares = 0;
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const acc l = static_cast<acc>(logits[i]);
      squares += l * l;
    }
    double sum = block_sum(squares, warps);
    if (sum > 1e-28 && sum < 1e38) return sqrt(sum);
    sum = 0;  // a square may have left the range of float
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const double l = static_cast<double>(static_cast<acc>(logits[i]));
      sum += l * l;
    }
    return sqrt(block_sum(sum, warps));
  }

  // held[i] = w_j (sigmoid(z_j) - y_j) of the labels j = begin + i of a tile.
  template <bool kSums>
  __device__ void fill(int begin, int tile) {
    acc entropy = 0, factors = 0, dots = 0;  // factors: their product less 1
    int run = 0;
    for (int i = threadIdx.x; i < tile; i += kThreads) {
      const int j = begin + i;
      const acc x = normalized(j);
      const acc scaled = x * (p.per_label ? p.gamma[column + j] : gamma);
      const acc z = p.label_bias == nullptr ? scaled : scaled + p.label_bias[column + j];
      const acc e = exponential(z < 0 ? z : -z), reciprocal = inverse_of(1 + e);
      acc g = z < 0 ? e * reciprocal : reciprocal;
      const acc positive = z < 0 ? acc(0) : z;
      if (p.label_weights != nullptr) {
        const acc w = p.label_weights[column + j];
        g *= w;
        if (kSums && p.with_loss) entropy += w * (positive + log1p(e));
      } else if (kSums && p.with_loss) {
        entropy += positive;
        factors += e + factors * e;
        if (++run == kRun) {
          entropy += log1p(factors);
          factors = 0;
          run = 0;
        }
      }
      held[i] = g;
      if (kSums) dots += g * finite(p.per_label ? scaled : x);
    }
    loss += entropy + log1p(factors);
    dot += dots;
    __syncthreads();
    for (int64_t t = first + threadIdx.x; t < last; t += kThreads) {
      const int64_t label = p.indices[t] - p.groups[group];
      if (label < begin || label >= begin + tile) continue;
      const int j = static_cast<int>(label);
      const acc x = normalized(j);
      const acc scaled = x * (p.per_label ? p.gamma[column + j] : gamma);
      const acc w = p.label_weights == nullptr ? acc(1) : p.label_weights[column + j];
      const acc wy = p.values == nullptr ? w : w * p.values[t];
      held[j - begin] -= wy;
      if (kSums) {
        const acc z = p.label_bias == nullptr ? scaled : scaled + p.label_bias[column + j];
        loss -= static_cast<double>(wy) * z;
        dot -= static_cast<double>(wy) * (p.per_label ? scaled : x);
      }
    }
    __syncthreads();
  }

  // Writes the gradients of a tile, held being what fill has left; sums go to this row's block.
  __device__ void write(int begin, int tile) {
    const acc along = p.scale * inverse * gamma;
    const acc radial = static_cast<acc>(dot);
    const int64_t sums = row / p.block * p.shape.columns + column;
    for (int i = threadIdx.x; i < tile; i += kThreads) {
      const int j = begin + i;
      const acc g = held[i], x = normalized(j);
      const acc scaled = p.per_label ? g * p.gamma[column + j] : g;
      logits[j] = static_cast<scalar_t>(along * (p.normalize ? scaled - radial * x : scaled));
      if (p.gamma_columns != nullptr) p.gamma_columns[sums + j] += p.scale * g * finite(x);
      if (p.bias_columns != nullptr) p.bias_columns[sums + j] += p.scale * g;
    }
    __syncthreads();  // held is used again
  }

  __device__ void run() {
    if (group == 0 && !valid()) loss = NAN;
    first = lower_bound(p.indices, first, last, p.groups[group]);
    last = lower_bound(p.indices, first, last, p.groups[group] + size);
    if (p.normalize) {
      const double exact = norm();
      constexpr double kSmallest = sizeof(acc) == 8 ? 2.2250738585072014e-308 : 1.17549435e-38;
      length = static_cast<acc>(exact);
      inverse = exact < kSmallest ? acc(0) : static_cast<acc>(1 / exact);
    }
    for (int begin = 0; begin < size; begin += p.tile) {
      fill<true>(begin, size - begin < p.tile ? size - begin : p.tile);
    }
    loss = block_sum(loss, warps);
    dot = block_sum(dot, warps);
    if (threadIdx.x == 0) {
      const int64_t at = row * p.shape.groups + group;
      p.sums[at] = p.with_loss || isnan(loss) ? loss : 0;
      p.sums[p.shape.rows * p.shape.groups + at] = p.scale * dot;
    }
    if (!p.with_grad) return;
    for (int begin = 0; begin < size; begin += p.tile) {
      const int tile = size - begin < p.tile ? size - begin : p.tile;
      if (size > p.tile) fill<false>(begin, tile);
      write(begin, tile);
    }
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, sizeof(acc_t<scalar_t>) == 8 ? 2 : 4)
    loss_kernel(Problem<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ double warps[kWarps];
  const int64_t blocks = (p.shape.rows + p.block - 1) / p.block;
  for (int64_t task = blockIdx.x; task < blocks * p.shape.groups; task += gridDim.x) {
    const int64_t begin = task / p.shape.groups * p.block;
    const int64_t end = begin + p.block < p.shape.rows ? begin + p.block : p.shape.rows;
    for (int64_t row = begin; row < end; ++row) {
      Segment<scalar_t>(p, reinterpret_cast<acc*>(shared), warps, row, task % p.shape.groups).run();
    }
  }
}

// What the options of the operator come to.
struct Options {
  const MaybeTensor &values, &gamma, &label_bias, &label_weights;  // contiguous
  bool per_label, normalize, with_loss, with_grad;
  double scale;
  int64_t block;
};

template <typename scalar_t>
void launch(const ScSigmoidLossShape& shape, const Options& options, Tensor& logits,
            const Tensor& indices, const Tensor& offsets, const Tensor& groups, Tensor& sums,
            Tensor& gammas, Tensor& biases) {
  using acc = acc_t<scalar_t>;
  const auto data = [](const MaybeTensor& t) { return t ? t->const_data_ptr<acc>() : nullptr; };
  const auto room = [](Tensor& t) { return t.numel() > 0 ? t.mutable_data_ptr<acc>() : nullptr; };
  const int64_t most = kHeldBytes / static_cast<int64_t>(sizeof(acc));
  const int tile = static_cast<int>(std::min(std::max<int64_t>(shape.columns, 1), most));
  const Problem<scalar_t> problem{shape,
                                  logits.mutable_data_ptr<scalar_t>(),
                                  indices.const_data_ptr<int64_t>(),
                                  offsets.const_data_ptr<int64_t>(),
                                  groups.const_data_ptr<int64_t>(),
                                  data(options.values),
                                  data(options.gamma),
                                  data(options.label_bias),
                                  data(options.label_weights),
                                  sums.mutable_data_ptr<double>(),
                                  room(gammas),
                                  room(biases),
                                  indices.numel(),
                                  options.block,
                                  tile,
                                  static_cast<acc>(options.scale),
                                  options.per_label && options.gamma,
                                  options.normalize,
                                  options.with_loss,
                                  options.with_grad};
  const int64_t tasks = ceil_div(shape.rows, options.block) * shape.groups;
  const auto grid = static_cast<unsigned>(std::min(tasks, int64_t(1) << 30));
  const auto bytes = static_cast<size_t>(tile) * sizeof(acc);
  loss_kernel<scalar_t><<<grid, kThreads, bytes, current_stream(logits)>>>(problem);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor> sc_sigmoid_loss_logits_(
    Tensor logits, const Tensor& indices_, const Tensor& offsets_, const MaybeTensor& values_,
    const Tensor& out_offsets_, int64_t labels, const MaybeTensor& gamma_,
    const MaybeTensor& label_bias_, const MaybeTensor& label_weights_, bool gamma_per_label,
    bool normalize, bool with_loss, bool with_grad, double scale, bool gamma_columns,
    bool bias_columns) {
  const auto shape =
      check_sc_sigmoid_loss_logits(logits, indices_, offsets_, values_, out_offsets_, labels,
                                   gamma_, label_bias_, label_weights_, gamma_per_label);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Tensor indices = as_contiguous(indices_), offsets = as_contiguous(offsets_);
  const Tensor out_offsets = as_contiguous(out_offsets_);
  const int64_t block = gamma_columns || bias_columns ? kRowBlock : 1;
  const int64_t blocks = (shape.rows + block - 1) / block;
  const auto like = torch::stable::new_empty(logits, {0}, sum_dtype(logits));
  Tensor sums = torch::stable::new_zeros(logits, {2, shape.rows, shape.groups}, ScalarType::Double);
  Tensor gammas = torch::stable::new_zeros(like, {gamma_columns ? blocks : 0, shape.columns});
  Tensor biases = torch::stable::new_zeros(like, {bias_columns ? blocks : 0, shape.columns});
  if (shape.rows == 0 || shape.groups == 0) return {sums, gammas, biases};

  const auto contiguous = [](const MaybeTensor& t) {
    return t ? MaybeTensor(as_contiguous(*t)) : t;
  };
  const MaybeTensor values = contiguous(values_), gamma = contiguous(gamma_),
                    label_bias = contiguous(label_bias_),
                    label_weights = contiguous(label_weights_);
  const Options options{values,    gamma,     label_bias, label_weights, gamma_per_label,
                        normalize, with_loss, with_grad,  scale,         block};
  FASTHEADS_DISPATCH(logits, "sc_sigmoid_loss", [&] {
    launch<scalar_t>(shape, options, logits, indices, offsets, out_offsets, sums, gammas, biases);
  });
  return {sums, gammas, biases};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("sc_sigmoid_loss_logits_", TORCH_BOX(&sc_sigmoid_loss_logits_));
}

}  // namespace fastheads
