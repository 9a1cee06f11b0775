// multilabel_margin on CUDA: blocks for parts of the columns of each row, then a block for each row
// that adds up what they found. Counts are integers, so that their order does not matter.
#include <algorithm>
#include <tuple>

#include "../multilabel_margin.h"
#include "common.cuh"

namespace fastheads {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kItems = 16;  // logits of a thread, in registers
constexpr int kTile = kThreads * kItems;
constexpr int kMargins = 256;  // targets that are held at a time
constexpr int kSummed = 8;     // of them, whose hinges a thread adds up before it takes a double
constexpr int64_t kBlocks = 1024;  // to fill the device

// logits: [N, L] of the given pitch; indices: [nonzeros]; offsets: [N + 1]; factors: [N] or null;
// grad: [N, L] or null; counts: [nonzeros], hinges above 0; partial: [N, parts]; loss: [N]
template <typename scalar_t>
struct Problem {
  MultilabelMarginShape shape;
  const scalar_t* logits;
  int64_t pitch;
  const int64_t *indices, *offsets;
  int64_t nonzeros;
  const double* factors;
  scalar_t* grad;
  int* counts;
  double *partial, *loss;
  int64_t parts, span;  // columns of a part, whole tiles
};

// The targets of a row; none if they are not distinct, ascending labels. All threads call it.
struct Targets {
  int64_t first, last;
  bool valid;

  template <typename scalar_t>
  __device__ Targets(const Problem<scalar_t>& p, int64_t row)
      : first(p.offsets[row]), last(p.offsets[row + 1]) {
    bool wrong = first < 0 || last < first || last > p.nonzeros;
    if (wrong) first = last = 0;
    for (int64_t e = first + threadIdx.x; e < last; e += blockDim.x) {
      const int64_t label = p.indices[e];
      wrong |= label < 0 || label >= p.shape.labels;
      wrong |= e > first && p.indices[e - 1] >= label;
    }
    valid = !__syncthreads_or(wrong);
    if (!valid) first = last = 0;
  }
};

// The sum over all threads, in thread 0.
__device__ inline double block_sum(double sum, double* warps) {
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += warps[w];
  __syncthreads();  // warps is used again
  return sum;
}

// One part of the columns of one row, for all threads of a block.
template <typename scalar_t, int kVec, bool kGrad>
struct Part {
  using acc = acc_t<scalar_t>;
  static constexpr int kPacks = kItems / kVec;

  const Problem<scalar_t>& p;
  acc* margins;  // [kMargins], shared: 1 - x_j
  const scalar_t* logits;
  Targets targets;
  acc x[kItems];  // of a tile, lowered beyond any margin where they are none of the others
  int active[kItems];

  // The column of the first logit of a pack, within the tile.
  __device__ static int column(int pack) {
    return (pack * kThreads + static_cast<int>(threadIdx.x)) * kVec;
  }

  __device__ void load(int64_t begin) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      acc values[kVec];
      const int64_t at = begin + column(pack);
      if (at < p.shape.labels) {
        Packed<scalar_t, kVec>::load(logits + at).unpack(values);
      } else {
        for (int v = 0; v < kVec; ++v) values[v] = -INFINITY;
      }
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        x[pack * kVec + v] = values[v];
        active[pack * kVec + v] = 0;
      }
    }
    for (int64_t e = targets.first; e < targets.last; ++e) {
      const int64_t label = p.indices[e] - begin;
      if (label < 0 || label >= kTile) continue;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (column(i / kVec) + i % kVec == label) x[i] = -INFINITY;
      }
    }
  }

  __device__ void hold(int64_t first, int64_t last) {
    __syncthreads();  // margins may still be read
    const int64_t e = first + threadIdx.x;
    if (e < last) margins[threadIdx.x] = 1 - static_cast<acc>(logits[p.indices[e]]);
    __syncthreads();
  }

  // The loss of this thread's logits against targets first to last, which are held.
  __device__ double compare(int64_t first, int64_t last) {
    double sum = 0;
    acc loss = 0;  // of up to kSummed targets: of more, float loses digits
    for (int64_t e = first; e < last; ++e) {
      const acc margin = margins[e - first];
      int count = 0;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const acc hinge = margin + x[i];
        loss += hinge <= 0 ? acc(0) : hinge;  // NaN stays
        if constexpr (kGrad) {
          const int above = hinge > 0;
          active[i] += above;
          count += above;
        }
      }
      if constexpr (kGrad) {
        count = __reduce_add_sync(0xffffffffu, count);
        if (threadIdx.x % 32 == 0 && count > 0) atomicAdd(p.counts + e, count);
      }
      if ((e - first) % kSummed == kSummed - 1) {
        sum += loss;
        loss = 0;
      }
    }
    return sum + loss;
  }

  __device__ void write(scalar_t* grad, int64_t begin, acc factor) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      const int64_t at = begin + column(pack);
      if (at >= p.shape.labels) continue;
      acc values[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        values[v] = factor * static_cast<acc>(active[pack * kVec + v]);
      }
      Packed<scalar_t, kVec>::pack(values).store(grad + at);
    }
  }

  // The loss of this thread's logits in the columns begin to end.
  __device__ double run(int64_t row, int64_t begin, int64_t end) {
    double loss = 0;
    const bool few = targets.last - targets.first <= kMargins;
    if (few) hold(targets.first, targets.last);
    for (; begin < end; begin += kTile) {
      load(begin);
      for (int64_t first = targets.first; first < targets.last; first += kMargins) {
        const int64_t last = first + kMargins < targets.last ? first + kMargins : targets.last;
        if (!few) hold(first, last);
        loss += compare(first, last);
      }
      if constexpr (kGrad) {
        write(p.grad + row * p.shape.labels, begin, static_cast<acc>(p.factors[row]));
      }
    }
    return loss;
  }
};

template <typename scalar_t, int kVec, bool kGrad>
__global__ void __launch_bounds__(kThreads) part_kernel(Problem<scalar_t> p) {
  __shared__ acc_t<scalar_t> margins[kMargins];
  __shared__ double warps[kWarps];
  for (int64_t task = blockIdx.x; task < p.shape.rows * p.parts; task += gridDim.x) {
    const int64_t row = task / p.parts, begin = task % p.parts * p.span;
    const int64_t end = begin + p.span < p.shape.labels ? begin + p.span : p.shape.labels;
    Part<scalar_t, kVec, kGrad> part{p, margins, p.logits + row * p.pitch, Targets(p, row)};
    const double loss = block_sum(part.run(row, begin, end), warps);
    if (threadIdx.x == 0) p.partial[task] = part.targets.valid ? loss : NAN;
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(32) row_kernel(Problem<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  for (int64_t row = blockIdx.x; row < p.shape.rows; row += gridDim.x) {
    const Targets targets(p, row);
    if (threadIdx.x == 0) {
      double loss = targets.valid ? 0 : NAN;
      for (int64_t part = 0; part < p.parts; ++part) loss += p.partial[row * p.parts + part];
      p.loss[row] = loss;
    }
    if (p.grad == nullptr) continue;
    const acc factor = static_cast<acc>(p.factors[row]);
    for (int64_t e = targets.first + threadIdx.x; e < targets.last; e += blockDim.x) {
      const acc g = 0 - factor * static_cast<acc>(p.counts[e]);
      p.grad[row * p.shape.labels + p.indices[e]] = static_cast<scalar_t>(g);
    }
  }
}

inline unsigned grid_of(int64_t tasks) {
  return static_cast<unsigned>(std::min(tasks, int64_t(1) << 30));
}

template <typename scalar_t, int kVec>
void launch_packs(const Problem<scalar_t>& p, cudaStream_t stream) {
  const unsigned grid = grid_of(p.shape.rows * p.parts);
  if (p.grad == nullptr) {
    part_kernel<scalar_t, kVec, false><<<grid, kThreads, 0, stream>>>(p);
  } else {
    part_kernel<scalar_t, kVec, true><<<grid, kThreads, 0, stream>>>(p);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  row_kernel<scalar_t><<<grid_of(p.shape.rows), 32, 0, stream>>>(p);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// factors: [N] and grad: [N, L], or null
template <typename scalar_t>
void launch(const MultilabelMarginShape& shape, const Tensor& logits, const Tensor& indices,
            const Tensor& offsets, const double* factors, Tensor* grad, Tensor& loss) {
  const int64_t tiles = ceil_div(shape.labels, kTile);
  const int64_t wanted = std::clamp<int64_t>(ceil_div(kBlocks, shape.rows), 1, tiles);
  const int64_t span = ceil_div(tiles, wanted) * kTile, parts = ceil_div(shape.labels, span);
  Tensor partial = torch::stable::new_empty(loss, {shape.rows, parts});
  const int64_t counted = grad == nullptr ? 0 : indices.numel();
  Tensor counts = torch::stable::new_zeros(indices, {counted}, ScalarType::Int);
  const Problem<scalar_t> problem{shape,
                                  logits.const_data_ptr<scalar_t>(),
                                  shape.rows > 1 ? logits.stride(0) : shape.labels,
                                  indices.const_data_ptr<int64_t>(),
                                  offsets.const_data_ptr<int64_t>(),
                                  indices.numel(),
                                  factors,
                                  grad == nullptr ? nullptr : grad->mutable_data_ptr<scalar_t>(),
                                  counts.mutable_data_ptr<int>(),
                                  partial.mutable_data_ptr<double>(),
                                  loss.mutable_data_ptr<double>(),
                                  parts,
                                  span};
  constexpr int kPack = 16 / sizeof(scalar_t);
  const auto addresses =
      reinterpret_cast<uintptr_t>(problem.logits) | reinterpret_cast<uintptr_t>(problem.grad);
  if (addresses % 16 == 0 && problem.pitch % kPack == 0 && shape.labels % kPack == 0) {
    launch_packs<scalar_t, kPack>(problem, current_stream(logits));
  } else {
    launch_packs<scalar_t, 1>(problem, current_stream(logits));
  }
}

Tensor losses(const MultilabelMarginShape& shape, const Tensor& logits_, const Tensor& indices_,
              const Tensor& offsets_, const double* factors, Tensor* grad) {
  const Tensor logits = with_unit_stride(logits_);
  const Tensor indices = as_contiguous(indices_), offsets = as_contiguous(offsets_);
  Tensor loss = torch::stable::new_zeros(logits, {shape.rows}, ScalarType::Double);
  if (shape.rows == 0 || shape.labels == 0) return loss;
  FASTHEADS_DISPATCH(logits, "multilabel_margin", [&] {
    launch<scalar_t>(shape, logits, indices, offsets, factors, grad, loss);
  });
  return loss;
}

Tensor multilabel_margin(const Tensor& logits, const Tensor& indices, const Tensor& offsets) {
  const auto shape = check_multilabel_margin(logits, indices, offsets);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return losses(shape, logits, indices, offsets, nullptr, nullptr);
}

std::tuple<Tensor, Tensor> multilabel_margin_backward(const Tensor& grad_, const Tensor& logits,
                                                      const Tensor& indices,
                                                      const Tensor& offsets) {
  const auto shape = check_multilabel_margin_backward(grad_, logits, indices, offsets);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Tensor grad = as_contiguous(grad_);
  Tensor grad_logits = torch::stable::new_empty(logits, {shape.rows, shape.labels});
  const Tensor loss =
      losses(shape, logits, indices, offsets, grad.const_data_ptr<double>(), &grad_logits);
  return {loss, grad_logits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("multilabel_margin", TORCH_BOX(&multilabel_margin));
  m.impl("multilabel_margin_backward", TORCH_BOX(&multilabel_margin_backward));
}

}  // namespace fastheads
