// Means over the pixels of a sample, in both layouts, of values that are produced on the way:
// value.add(i, sums) adds the kVec values of pack i of the sample to sums. Sums run in a fixed
// order, without atomics.
#pragma once

#include "common.cuh"

namespace fastheads {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// What a thread loads and stores at once.
template <typename scalar_t, int kVec>
struct alignas(kVec * sizeof(scalar_t)) Pack {
  scalar_t at[kVec];
};

template <typename scalar_t>
constexpr int kFullPack = 16 / sizeof(scalar_t);

// How blocks share the channels of a sample.
struct MeanPlan {
  int64_t channels;  // C
  int64_t pixels;    // H W
  int lanes;         // columns: threads along the packs of a pixel, a power of two; planes: 0
  int64_t parts;     // blocks a sample
  double scale;      // 1 / (H W): a division in float64 would spill
};

// Planes are split by warps, pixels of a column by the threads that share its lane. Few samples
// get narrow blocks, so that there are more of them; 8 lanes of 16 bytes are a cache line.
inline MeanPlan mean_plan(int64_t samples, int64_t channels, int64_t pixels, bool channels_last,
                          int pack) {
  const double scale = 1 / static_cast<double>(pixels);
  if (!channels_last) return {channels, pixels, 0, (channels + kWarps - 1) / kWarps, scale};
  const int64_t packs = channels / pack;
  int lanes = 32;
  while (lanes > 8 && samples * ((packs + lanes - 1) / lanes) < 512) lanes /= 2;
  return {channels, pixels, lanes, (packs + lanes - 1) / lanes, scale};
}

template <typename acc>
__device__ acc warp_sum(acc sum) {
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return sum;
}

// means: [C], those of part `part` are written; shared: [kThreads * kVec]; all threads call it
template <int kVec, typename acc, typename Value>
__device__ void part_means(const MeanPlan& plan, int64_t part, Value value, acc* shared,
                           acc* means) {
  const int thread = static_cast<int>(threadIdx.x);
  acc sums[kVec] = {};
  if (plan.lanes == 0) {
    const int64_t channel = part * kWarps + thread / 32, packs = plan.pixels / kVec;
    if (channel >= plan.channels) return;  // a whole warp
    for (int64_t i = thread % 32; i < packs; i += 32) value.add(channel * packs + i, sums);
    acc sum = 0;
    for (int v = 0; v < kVec; ++v) sum += sums[v];
    sum = warp_sum(sum);
    if (thread % 32 == 0) means[channel] = sum * static_cast<acc>(plan.scale);
    return;
  }
  const int lane = thread % plan.lanes, rows = kThreads / plan.lanes;
  const int64_t packs = plan.channels / kVec, pack = part * plan.lanes + lane;
  if (pack < packs) {
    for (int64_t p = thread / plan.lanes; p < plan.pixels; p += rows) {
      value.add(p * packs + pack, sums);
    }
  }
  for (int v = 0; v < kVec; ++v) shared[v * kThreads + thread] = sums[v];
  __syncthreads();
  if (thread < plan.lanes && pack < packs) {
    for (int v = 0; v < kVec; ++v) {
      acc sum = 0;
      for (int row = 0; row < rows; ++row) {
        sum += shared[v * kThreads + row * plan.lanes + lane];
      }
      means[pack * kVec + v] = sum * static_cast<acc>(plan.scale);
    }
  }
  __syncthreads();  // shared is used again
}

inline bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

inline unsigned blocks_of(int64_t tasks) {
  return static_cast<unsigned>(tasks < (int64_t(1) << 30) ? tasks : int64_t(1) << 30);
}

}  // namespace
}  // namespace fastheads
