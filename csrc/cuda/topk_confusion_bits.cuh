// Co-detection on the tensor cores: counts += triu(B B^T), where bit n of row i of B says whether
// label i is in row n of top. Exact: the product of bits is "and", their sum counts ones in int32.
// Against int8 this is an eighth of the bytes; tiles below the diagonal are left out, and counts
// are read and written once, with no product matrix between.
#pragma once

#include <cuda_pipeline.h>

#include <cstdint>

#include "../topk_confusion.h"
#include "topk_confusion_mma.cuh"

namespace fastheads {
namespace {

constexpr int kTile = 128;            // labels a side of a block's tile
constexpr int kWords = 16;            // of 32 rows each, a step
constexpr int kPitch = kWords + 4;    // words; so that the loads of a warp meet no bank twice
constexpr int kProductThreads = 256;  // 4 x 2 warps of 32 x 64 labels
constexpr int kStepRows = 32 * kWords;

// bits: [labels rounded up to tiles, words], zeros; top: [N, K]
__global__ void set_bits_kernel(TopkShape shape, const int64_t* top, int64_t words,
                                uint32_t* bits) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < shape.rows * shape.k;
       e += step) {
    const int64_t n = e / shape.k;
    atomicOr(bits + top[e] * words + n / 32, 1u << n % 32);
  }
}

using BitTile = uint32_t[kTile][kPitch];

// Starts the copies of a step's words of a tile's labels. bits: [labels, words], from the step on
__device__ inline void start_copy(const uint32_t* bits, int64_t words, BitTile& tile) {
  for (int piece = threadIdx.x; piece < kTile * kWords / 4; piece += kProductThreads) {
    const int label = piece / (kWords / 4), word = piece % (kWords / 4) * 4;
    __pipeline_memcpy_async(&tile[label][word], bits + label * words + word, 16);
  }
}

// sums[m][n] is the part from (row + 16 m, column + 8 n) on of the product of two tiles.
__device__ inline void add_product(const BitTile& left, const BitTile& right, int row, int column,
                                   int (&sums)[2][8][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int word = t; word < kWords; word += 8) {
    uint32_t a[2][4], b[8][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint32_t* upper = left[row + 16 * m + g];
      const uint32_t* lower = left[row + 16 * m + g + 8];
      a[m][0] = upper[word], a[m][1] = lower[word];
      a[m][2] = upper[word + 4], a[m][3] = lower[word + 4];
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      b[n][0] = right[column + 8 * n + g][word];
      b[n][1] = right[column + 8 * n + g][word + 4];
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 8; ++n) add_bit_product(sums[m][n], a[m], b[n]);
    }
  }
}

// A block adds one tile of the product. bits: [labels rounded up to tiles, words], words a multiple
// of kWords; counts: [labels, labels]
template <typename count_t>
__global__ void __launch_bounds__(kProductThreads, 2)
    bit_product_kernel(const uint32_t* bits, int64_t words, int64_t labels, count_t* counts) {
  if (blockIdx.x < blockIdx.y) return;  // below the diagonal
  alignas(16) __shared__ BitTile tiles[2][2];
  const uint32_t* left = bits + int64_t(blockIdx.y) * kTile * words;
  const uint32_t* right = bits + int64_t(blockIdx.x) * kTile * words;
  const int warp = threadIdx.x / 32, row = warp % 4 * 32, column = warp / 4 * 64;
  int sums[2][8][4] = {};

  const int steps = static_cast<int>(words / kWords);
  const auto start = [&](int step) {
    if (step < steps) {
      start_copy(left + step * kWords, words, tiles[step % 2][0]);
      start_copy(right + step * kWords, words, tiles[step % 2][1]);
    }
    __pipeline_commit();
  };
  start(0);
  for (int step = 0; step < steps; ++step) {
    start(step + 1);
    __pipeline_wait_prior(1);
    __syncthreads();
    add_product(tiles[step % 2][0], tiles[step % 2][1], row, column, sums);
    __syncthreads();  // the tiles are overwritten
  }

  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int part = 0; part < 4; ++part) {  // rows g, g + 8, g + 16, g + 24
    const int64_t i = int64_t(blockIdx.y) * kTile + row + 8 * part + g;
    const int64_t first = int64_t(blockIdx.x) * kTile + column + 2 * t;
    count_t* cells = counts + i * labels + first;
    count_t old[16];  // all loads before the first store
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      const int64_t j = first + c / 2 * 8 + c % 2;
      old[c] = i <= j && j < labels ? cells[c / 2 * 8 + c % 2] : 0;
    }
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      const int64_t j = first + c / 2 * 8 + c % 2;
      const int sum = sums[part / 2][c / 2][part % 2 * 2 + c % 2];
      if (i <= j && j < labels && sum != 0) cells[c / 2 * 8 + c % 2] = old[c] + sum;
    }
  }
}

}  // namespace
}  // namespace fastheads
