// sc_linear for few rows of x: y[r, labels of g] = W_g [generic[r] | x[r, columns of g]] + b_g.
// Every W_g is read once for kRows rows. A block has kLabels labels of one group; both operands
// pass through shared memory, 128 bytes of each row a step, kStages steps at a time in flight.
#pragma once

#include <vector>

#include "sc_linear_mma.cuh"

namespace fastheads {

// One group, or some of its rows. Pair p of the conditional form has row rows[p] of x, and its
// values begin at offsets[p]; otherwise the pairs are the rows of x and of y.
struct RowsGroup {
  int64_t weight;   // where W_g [labels, generic_size + inputs] begins
  int64_t in, out;  // first column of x, first of y and of bias
  int64_t first;    // of its pairs, in order
  int64_t pairs;
  int labels, inputs;
  int first_tile;  // of this group among the blocks of the launch
  bool aligned;    // its rows may be read 16 bytes at a time
};

// Travels by value: nothing is copied to the device, so a launch can be captured and never waits.
constexpr int kRowsGroups = 64;  // parameters of a kernel stay below 4 KB

template <typename scalar_t>
struct RowsProblem {
  const scalar_t* x;        // [., x_stride]
  const scalar_t* generic;  // [., generic_stride] or null
  const scalar_t* weight;
  const scalar_t* bias;    // or null
  scalar_t* y;             // [., y_stride], or values of pairs
  const int64_t* order;    // pairs by group; null: 0, 1, 2, ...
  const int64_t* rows;     // null: pair p has row p
  const int64_t* offsets;  // null: y is a matrix
  int64_t x_stride, generic_stride, y_stride;
  int generic_size;
  bool add;  // to what y holds
  int groups;
  RowsGroup group[kRowsGroups];
};

// Tells which groups can be read 16 bytes at a time, fills in their tiles and launches them all.
template <typename scalar_t>
void launch_rows(RowsProblem<scalar_t>& problem, std::vector<RowsGroup>& groups,
                 cudaStream_t stream);

namespace {

constexpr int kRowsThreads = 128, kStages = 4;
constexpr int kLabels = 64;          // a block
constexpr int kRows = 16;            // a block
constexpr int kChunks = 8;           // of 16 bytes, of a row in a step
constexpr int kPitch = kLabels + 4;  // of the sums in shared memory: no bank conflicts

template <typename scalar_t>
constexpr int kChunk = 16 / sizeof(scalar_t);
template <typename scalar_t>
constexpr int kStep = kChunks * kChunk<scalar_t>;

// Chunk c of row r is kept at place c ^ (r % 8), so that 8 rows of a column are in all banks.
struct alignas(16) Stage {
  uint4 weight[kLabels][kChunks];
  uint4 x[kRows][kChunks];

  template <typename scalar_t>
  static __device__ scalar_t* at(uint4 (*rows)[kChunks], int row, int chunk) {
    return reinterpret_cast<scalar_t*>(&rows[row][chunk ^ (row % 8)]);
  }
};

template <typename scalar_t>
union RowsShared {
  Stage stages[kStages];
  acc_t<scalar_t> sums[kRows][kPitch];
};

// kLabels x kRows sums of a block, in the registers of its threads.
template <typename scalar_t>
struct RowsSums {  // float and double: half of the rows of a label
  using acc = acc_t<scalar_t>;
  acc sums[kRows / 2] = {};

  __device__ void add(Stage& stage) {
    const int label = threadIdx.x % kLabels, first = threadIdx.x / kLabels * (kRows / 2);
    acc parts[kRows / 2] = {};  // of this step alone: one sum of all would lose digits
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const auto w =
          Packed<scalar_t, kChunk<scalar_t>>::load(Stage::at<scalar_t>(stage.weight, label, c));
      acc weights[kChunk<scalar_t>], xs[kChunk<scalar_t>];
      w.unpack(weights);
#pragma unroll
      for (int r = 0; r < kRows / 2; ++r) {
        const auto x =
            Packed<scalar_t, kChunk<scalar_t>>::load(Stage::at<scalar_t>(stage.x, first + r, c));
        x.unpack(xs);
#pragma unroll
        for (int e = 0; e < kChunk<scalar_t>; ++e) parts[r] += weights[e] * xs[e];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows / 2; ++r) sums[r] += parts[r];
  }
  __device__ void write(acc (*out)[kPitch]) const {
    const int label = threadIdx.x % kLabels, first = threadIdx.x / kLabels * (kRows / 2);
#pragma unroll
    for (int r = 0; r < kRows / 2; ++r) out[first + r][label] = sums[r];
  }
};

template <typename scalar_t>
struct MatrixSums {  // 16 bits: a warp has 16 labels and all rows
  static_assert(kRows == 16 && kLabels == 16 * (kRowsThreads / 32));
  float sums[2][4] = {};

  __device__ void add(Stage& stage) {
    const int lane = threadIdx.x % 32, label = threadIdx.x / 32 * 16;
#pragma unroll
    for (int c = 0; c < kChunks; c += 2) {
      unsigned w[4], x[4];
      load_matrices(w, Stage::at<scalar_t>(stage.weight, label + lane % 16, c + lane / 16));
      load_matrices(x, Stage::at<scalar_t>(stage.x, lane % 8 + lane / 16 * 8, c + lane / 8 % 2));
      multiply_add<scalar_t>(sums[0], w, x[0], x[1]);
      multiply_add<scalar_t>(sums[1], w, x[2], x[3]);
    }
  }
  __device__ void write(float (*out)[kPitch]) const {
    const int lane = threadIdx.x % 32, label = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      out[j / 4 * 8 + lane % 4 * 2 + j % 2][label + j % 4 / 2 * 8] = sums[j / 4][j % 4];
    }
  }
};

// What a thread brings into shared memory: its chunk of every 16th row of W and of one row of x.
template <typename scalar_t>
struct RowsLoader {
  static constexpr int kApart = kRowsThreads / kChunks;
  static_assert(kRows == kApart && kLabels % kApart == 0);
  const scalar_t *weight, *x, *generic;  // rows; x minus generic_size: index k has column k
  int64_t inputs;                        // of W, with the generic part
  int generic_size, labels;              // labels: how many of the rows are left
  bool row_inside, aligned;

  __device__ void load(Stage& stage, int step) const {
    const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const int64_t k = int64_t(step) * kStep<scalar_t> + chunk * kChunk<scalar_t>;
#pragma unroll
    for (int i = 0; i < kLabels; i += kApart) {
      auto* to = Stage::at<scalar_t>(stage.weight, row + i, chunk);
      copy(to, weight + i * inputs, weight + i * inputs, k, i < labels);
    }
    copy(Stage::at<scalar_t>(stage.x, row, chunk), generic, x, k, row_inside);
  }

 private:
  // Elements k, k + 1, ... of a row whose first generic_size come from one place, the rest from
  // another. Aligned chunks lie in one of the two.
  __device__ void copy(scalar_t* to, const scalar_t* before, const scalar_t* after, int64_t k,
                       bool inside) const {
    if (aligned) {
      const bool any = inside && k < inputs;
      const scalar_t* from = k < generic_size ? before : after;
      copy_async(to, any ? from + k : weight, any);
      return;
    }
    for (int e = 0; e < kChunk<scalar_t>; ++e, ++k) {
      const scalar_t* from = k < generic_size ? before : after;
      to[e] = inside && k < inputs ? from[k] : static_cast<scalar_t>(0.0f);
    }
  }
};

template <typename scalar_t>
__device__ const RowsGroup& group_of(const RowsProblem<scalar_t>& problem, int tile) {
  int low = 0, high = problem.groups - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (problem.group[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return problem.group[low];
}

template <typename scalar_t>
__global__ void __launch_bounds__(kRowsThreads)
    rows_kernel(const __grid_constant__ RowsProblem<scalar_t> problem) {
  using acc = acc_t<scalar_t>;
  using Sums = std::conditional_t<sizeof(scalar_t) == 2, MatrixSums<scalar_t>, RowsSums<scalar_t>>;
  __shared__ RowsShared<scalar_t> shared;
  const RowsGroup& group = group_of(problem, blockIdx.x);
  // Blocks of the same labels follow each other: all but the first find W_g in the cache.
  const int tile = blockIdx.x - group.first_tile;
  const int row_tiles = static_cast<int>((group.pairs + kRows - 1) / kRows);
  const int64_t label = int64_t(tile / row_tiles) * kLabels;
  const int64_t first = int64_t(tile % row_tiles) * kRows;
  const auto pair_of = [&](int r) {
    const int64_t at = group.first + first + r;
    return problem.order == nullptr ? at : problem.order[at];
  };
  const int64_t inputs = problem.generic_size + int64_t(group.inputs);

  const int mine = threadIdx.x / kChunks;
  const bool inside = first + mine < group.pairs;
  int64_t row = inside ? pair_of(mine) : 0;
  if (inside && problem.rows != nullptr) row = problem.rows[row];
  const RowsLoader<scalar_t> loader{
      problem.weight + group.weight + (label + mine) * inputs,
      problem.x + row * problem.x_stride + group.in - problem.generic_size,
      problem.generic + row * problem.generic_stride,
      inputs,
      problem.generic_size,
      static_cast<int>(group.labels - label) - mine,
      inside,
      group.aligned};

  const int steps = static_cast<int>((inputs + kStep<scalar_t> - 1) / kStep<scalar_t>);
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) loader.load(shared.stages[step], step);
    commit_copies();
  }
  Sums sums;
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this step has arrived for all, and all are done with the one before
    const int next = step + kStages - 1;
    if (next < steps) loader.load(shared.stages[next % kStages], next);
    commit_copies();
    sums.add(shared.stages[step % kStages]);
  }
  wait_for_copies<0>();
  __syncthreads();  // the sums take the place of the stages
  sums.write(shared.sums);
  __syncthreads();

  const int64_t mine_label = label + threadIdx.x % kLabels;
  if (mine_label >= group.labels) return;
  acc bias = 0;
  if (problem.bias != nullptr) bias = static_cast<acc>(problem.bias[group.out + mine_label]);
  for (int r = threadIdx.x / kLabels; r < kRows && first + r < group.pairs;
       r += kRowsThreads / kLabels) {
    const int64_t pair = pair_of(r);
    scalar_t* y = problem.y + mine_label;
    y += problem.offsets == nullptr ? pair * problem.y_stride + group.out : problem.offsets[pair];
    acc value = shared.sums[r][threadIdx.x % kLabels] + bias;
    if (problem.add) value += static_cast<acc>(*y);
    *y = static_cast<scalar_t>(value);
  }
}

}  // namespace
}  // namespace fastheads
