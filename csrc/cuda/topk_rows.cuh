// The kernels of topk_indices: one block a row, or several a row that the last of them puts
// together.
#pragma once

#include "../topk_confusion.h"
#include "topk_select.cuh"

namespace fastheads {
namespace {

constexpr int kWideThreads = 512;
constexpr int kNarrowThreads = 128;  // for rows that fit their list, sixteen blocks a processor

// Sorts the candidates, among which are the k best, and writes their labels. top: [K]
template <int kThreads, typename scalar_t>
__device__ void write_best(typename Key<scalar_t>::packed_t* list, int found, int k,
                           Space<scalar_t, kThreads>& space, int64_t* top) {
  // A selection costs about as much as a sort of four times as many (by counting; not measured).
  if (k <= Space<scalar_t, kThreads>::kBest && found > 4 * k) {
    keep_best(list, found, k, space);
    list = space.best;
    found = k;
  }
  sort_descending<kThreads>(list, found);
  for (int i = threadIdx.x; i < k; i += kThreads) top[i] = Key<scalar_t>::label(list[i]);
  __syncthreads();  // the list is used again
}

template <int kThreads, typename scalar_t>
__device__ int collect_all(const Segment<scalar_t>& segment, Space<scalar_t, kThreads>& space) {
  for (int i = threadIdx.x; i < segment.size; i += kThreads) space.list[i] = segment.packed(i);
  __syncthreads();
  return segment.size;
}

// Writes candidates to list, in no order, and returns how many: the k best are among them.
// list: space.list, or as long as k rounded up to a power of two, if that is longer
template <int kThreads, typename scalar_t>
__device__ int collect(const Segment<scalar_t>& segment, int k,
                       typename Key<scalar_t>::packed_t* list, Space<scalar_t, kThreads>& space) {
  constexpr int kCapacity = Space<scalar_t, kThreads>::kCapacity;
  if (segment.size <= kCapacity) return collect_all(segment, space);
  if (k <= kCapacity / 4) {
    const scalar_t bound = Key<scalar_t>::score(sampled_bound(segment, k, space));
    const int found = collect_reaching(segment, bound, space);
    if (found >= k && found <= kCapacity) return found;
    __syncthreads();  // all have read the count
  }
  collect_exact(segment, k, list, space);
  __syncthreads();
  return k;
}

// scores: [N, L] with rows `stride` apart, L at most the capacity; top: [N, K]
template <typename scalar_t>
__global__ void __launch_bounds__(kNarrowThreads, 8)
    topk_narrow_kernel(TopkShape shape, const scalar_t* scores, int64_t stride, int64_t* top) {
  __shared__ Space<scalar_t, kNarrowThreads> space;
  const int64_t n = blockIdx.x;
  const int k = static_cast<int>(shape.k), labels = static_cast<int>(shape.labels);
  const int found = collect_all(Segment<scalar_t>{scores + n * stride, 0, labels}, space);
  write_best(space.list, found, k, space, top + n * k);
}

// scores: [N, L] with rows `stride` apart; top: [N, K]
// lists: [gridDim, pitch] for a K beyond the capacity, or null
template <typename scalar_t>
__global__ void __launch_bounds__(kWideThreads, 2)
    topk_wide_kernel(TopkShape shape, const scalar_t* scores, int64_t stride,
                     typename Key<scalar_t>::packed_t* lists, int64_t pitch, int64_t* top) {
  __shared__ Space<scalar_t, kWideThreads> space;
  const int k = static_cast<int>(shape.k), labels = static_cast<int>(shape.labels);
  auto* list = lists != nullptr ? lists + int64_t(blockIdx.x) * pitch : space.list;
  for (int64_t n = blockIdx.x; n < shape.rows; n += gridDim.x) {
    const Segment<scalar_t> row{scores + n * stride, 0, labels};
    const int found = collect(row, k, list, space);
    write_best(list, found, k, space, top + n * k);
  }
}

// Whether this block is the last of `parts` to arrive: it then sees what all of them wrote.
template <typename space_t>
__device__ bool last_to_arrive(int* arrived, int parts, space_t& space) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) space.last = atomicAdd(arrived, 1) == parts - 1;
  __syncthreads();
  __threadfence();
  return space.last;
}

// A block takes a part of a row; the last to arrive finds the best of the parts' best.
// scores: [N, L] with rows `stride` apart; best: [N, parts, K] of work space; arrived: [N] zeros;
// top: [N, K]. K is at most kBest, parts * K at most the capacity and a part at least K long.
template <typename scalar_t>
__global__ void __launch_bounds__(kWideThreads, 2)
    topk_parts_kernel(TopkShape shape, const scalar_t* scores, int64_t stride, int parts,
                      typename Key<scalar_t>::packed_t* best, int* arrived, int64_t* top) {
  __shared__ Space<scalar_t, kWideThreads> space;
  const int k = static_cast<int>(shape.k);
  const int64_t n = blockIdx.x / parts, part = blockIdx.x % parts;
  const int first = static_cast<int>(shape.labels * part / parts);
  const int size = static_cast<int>(shape.labels * (part + 1) / parts) - first;
  const Segment<scalar_t> segment{scores + n * stride + first, first, size};
  keep_best(space.list, collect(segment, k, space.list, space), k, space);
  best += n * parts * k;
  for (int i = threadIdx.x; i < k; i += kWideThreads) best[part * k + i] = space.best[i];
  if (!last_to_arrive(arrived + n, parts, space)) return;

  for (int i = threadIdx.x; i < parts * k; i += kWideThreads) space.list[i] = best[i];
  __syncthreads();
  write_best(space.list, parts * k, k, space, top + n * k);
}

}  // namespace
}  // namespace fastheads
