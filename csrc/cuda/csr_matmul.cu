// csr_matmul on CUDA: the lanes of a warp are columns of x, and 32 nonzeros at a time are handed
// around. Where rows are long, the warps of a block share a row and their sums are added in order.
#include <algorithm>
#include <cmath>

#include "../csr_matmul.h"
#include "common.cuh"

namespace fastheads {
namespace {

constexpr int kWarps = 8;          // a block
constexpr int kColumns = 2;        // of x a lane: 64 at a time
constexpr int64_t kLongRow = 128;  // nonzeros on average, from which a block shares a row

template <typename value_t, typename index_t>
struct Csr {
  const index_t* crow;    // [M + 1]
  const index_t* col;     // [nonzeros]
  const value_t* values;  // [nonzeros]
  const value_t* x;       // [L, B]
  value_t* y;             // [M, B]
  CsrMatmulShape shape;
};

// sum[c] += values * x[., column + lane + 32 c] over every stride-th 32 nonzeros from begin on.
// Returns false at the first that is no label of x.
template <typename value_t, typename index_t>
__device__ bool add_nonzeros(const Csr<value_t, index_t>& a, int64_t begin, int64_t end,
                             int64_t stride, int64_t column, value_t* sum) {
  const int lane = threadIdx.x % 32;
  const int64_t width = a.shape.width;
  for (int64_t e = begin; e < end; e += 32 * stride) {
    const bool inside = e + lane < end;
    const index_t label = inside ? a.col[e + lane] : 0;
    const value_t value = inside ? a.values[e + lane] : 0;
    const bool valid = !inside || (label >= 0 && label < a.shape.labels);
    if (!__all_sync(0xffffffff, valid)) return false;
    const int count = static_cast<int>(end - e < 32 ? end - e : 32);
#pragma unroll 8
    for (int j = 0; j < count; ++j) {
      const value_t* row = a.x + int64_t(__shfl_sync(0xffffffff, label, j)) * width + column;
      const value_t scale = __shfl_sync(0xffffffff, value, j);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (column + lane + 32 * c < width) sum[c] += scale * row[lane + 32 * c];
      }
    }
  }
  return true;
}

// A block for kWarps / kShare rows, kShare warps a row. blockDim.x is 32 kWarps.
template <int kShare, typename value_t, typename index_t>
__global__ void __launch_bounds__(32 * kWarps, 3) csr_matmul_kernel(Csr<value_t, index_t> a) {
  constexpr int kRows = kWarps / kShare;
  __shared__ value_t sums[kWarps][32 * kColumns];
  __shared__ bool valid[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, share = warp % kShare;
  for (int64_t first = int64_t(blockIdx.x) * kRows; first < a.shape.rows;
       first += int64_t(gridDim.x) * kRows) {
    const int64_t i = first + warp / kShare;
    int64_t begin = 0, end = 0;
    bool ascends = true;
    if (i < a.shape.rows) {
      begin = a.crow[i];
      end = a.crow[i + 1];
      ascends = begin >= 0 && begin <= end && end <= a.shape.nonzeros;
      if (!ascends) end = begin;
    }
    for (int64_t column = 0; column < a.shape.width; column += 32 * kColumns) {
      value_t sum[kColumns] = {};
      const bool labels = add_nonzeros(a, begin + 32 * share, end, kShare, column, sum);
      for (int c = 0; c < kColumns; ++c) sums[warp][lane + 32 * c] = sum[c];
      if (lane == 0) valid[warp] = ascends && labels;
      __syncthreads();
      // The columns of a row are dealt to all threads that share it.
      for (int b = lane + 32 * share; b < 32 * kColumns; b += 32 * kShare) {
        value_t total = 0;
        bool all_valid = true;
        for (int w = warp - share; w < warp - share + kShare; ++w) {
          total += sums[w][b];
          all_valid = all_valid && valid[w];
        }
        if (i < a.shape.rows && column + b < a.shape.width) {
          a.y[i * a.shape.width + column + b] = all_valid ? total : static_cast<value_t>(NAN);
        }
      }
      __syncthreads();  // before the sums are overwritten
    }
  }
}

template <typename value_t, typename index_t>
void launch(const CsrMatmulShape& shape, const Tensor& crow, const Tensor& col,
            const Tensor& values, const Tensor& x, Tensor& y) {
  const Csr<value_t, index_t> a{crow.const_data_ptr<index_t>(),   col.const_data_ptr<index_t>(),
                                values.const_data_ptr<value_t>(), x.const_data_ptr<value_t>(),
                                y.mutable_data_ptr<value_t>(),    shape};
  const cudaStream_t stream = current_stream(x);
  const bool shared = shape.nonzeros / shape.rows >= kLongRow;
  const int64_t blocks = shared ? shape.rows : (shape.rows + kWarps - 1) / kWarps;
  const auto grid = static_cast<unsigned>(std::min<int64_t>(blocks, int64_t(1) << 30));
  if (shared) {
    csr_matmul_kernel<kWarps, value_t, index_t><<<grid, 32 * kWarps, 0, stream>>>(a);
  } else {
    csr_matmul_kernel<1, value_t, index_t><<<grid, 32 * kWarps, 0, stream>>>(a);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor csr_matmul(const Tensor& crow_, const Tensor& col_, const Tensor& values_,
                  const Tensor& x_) {
  const auto shape = check_csr_matmul(crow_, col_, values_, x_);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  const Tensor values = torch::stable::contiguous(values_), x = torch::stable::contiguous(x_);
  Tensor y = torch::stable::new_empty(x, {shape.rows, shape.width});
  if (y.numel() == 0) return y;

  const bool doubles = x.scalar_type() == ScalarType::Double;
  const bool long_indices = crow.scalar_type() == ScalarType::Long;
  const auto launch_for = doubles ? long_indices ? launch<double, int64_t> : launch<double, int32_t>
                          : long_indices ? launch<float, int64_t>
                                         : launch<float, int32_t>;
  launch_for(shape, crow, col, values, x, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("csr_matmul", TORCH_BOX(&csr_matmul));
}

}  // namespace fastheads
