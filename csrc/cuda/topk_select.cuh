// Selection by one block: ordered keys, radix selection, the streaming filter, bitonic sort.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common.h"

namespace fastheads {
namespace {

template <typename To, typename From>
__device__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// The key of a score is an unsigned integer in the order of the numbers, -0 equal to +0 and NaN at
// 0. Packed with its label it is unique, and the largest packed value is the best: highest score
// first, then lowest label. No packed value is 0, so 0 pads.
template <typename scalar_t>
struct Key {
  static constexpr int kBits = 8 * sizeof(scalar_t);
  using bits_t = std::conditional_t<kBits == 16, uint16_t,
                                    std::conditional_t<kBits == 32, uint32_t, uint64_t>>;
  using key_t = std::conditional_t<kBits == 64, uint64_t, uint32_t>;
  using packed_t = std::conditional_t<kBits == 64, unsigned __int128, uint64_t>;
  static constexpr int kPackedBits = kBits + 32;
  static constexpr key_t kSign = key_t(1) << (kBits - 1);

  static __device__ key_t of(scalar_t score) {
    const auto value = static_cast<acc_t<scalar_t>>(score);
    if (value != value) return 0;
    const key_t bits = bits_as<bits_t>(score);
    return bits & kSign ? kSign - (bits & ~kSign) : kSign + bits;
  }
  // The score of a key other than NaN's.
  static __device__ scalar_t score(key_t key) {
    return bits_as<scalar_t>(static_cast<bits_t>(key >= kSign ? key - kSign : kSign + kSign - key));
  }
  static __device__ packed_t pack(key_t key, int label) {
    return packed_t(key) << 32 | static_cast<uint32_t>(~label);
  }
  static __device__ int label(packed_t packed) { return ~static_cast<int>(packed); }
};

// A part of a row: the scores of labels first, ..., first + size - 1.
template <typename scalar_t>
struct Segment {
  const scalar_t* scores;
  int first, size;

  __device__ auto key(int i) const { return Key<scalar_t>::of(scores[i]); }
  __device__ auto packed(int i) const { return Key<scalar_t>::pack(key(i), first + i); }
};

// The shared memory of a block.
template <typename scalar_t, int kThreads>
struct Space {
  using packed_t = typename Key<scalar_t>::packed_t;
  static constexpr int kCapacity = 64 * kThreads / sizeof(packed_t);  // a power of two
  static constexpr int kBest = kCapacity / 4;
  packed_t list[kCapacity];  // candidates
  packed_t best[kBest];
  int histogram[256];
  int warp_counts[kThreads / 32];
  int digit, above, equal;
  int count;
  bool last;
};

// Where the k best of some keys begin: those with (key & mask) > bound, and `ties` of those with
// (key & mask) == bound, at least 1. All keys from bound on: at least the k best.
template <typename key_t>
struct Cut {
  key_t bound, mask;
  int ties;
};

// The digit in which the k-th largest lies; by one warp, whose lanes take 8 digits each, downwards.
template <typename space_t>
__device__ void find_digit(space_t& space, int k) {
  const int lane = threadIdx.x, first = 255 - 8 * lane;
  int sum = 0;
  for (int b = 0; b < 8; ++b) sum += space.histogram[first - b];
  int above = sum;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, above, distance);
    if (lane >= distance) above += other;
  }
  above -= sum;
  if (above >= k || above + sum < k) return;  // true in all lanes but one
  int digit = first;
  while (above + space.histogram[digit] < k) above += space.histogram[digit--];
  space.digit = digit;
  space.above = above;
  space.equal = space.histogram[digit];
}

// Radix selection, 8 bits a pass, over key_at(0), ..., key_at(size - 1) of kBits; 1 <= k <= size.
// Ends early where everything that shares the digits so far is among the k best.
template <int kThreads, int kBits, typename space_t, typename KeyAt>
__device__ auto cut_at(int size, int k, const KeyAt& key_at, space_t& space) {
  using key_t = decltype(key_at(0));
  Cut<key_t> cut{0, 0, k};
  for (int shift = kBits - 8; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += kThreads) space.histogram[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const key_t key = key_at(i);
      if ((key & cut.mask) == cut.bound) {
        atomicAdd(&space.histogram[static_cast<int>(key >> shift) & 255], 1);
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(space, cut.ties);
    __syncthreads();
    cut.ties -= space.above;
    cut.bound |= key_t(space.digit) << shift;
    cut.mask |= key_t(255) << shift;
    if (space.equal == cut.ties) break;
  }
  return cut;
}

// A score that few but probably at least k of the segment reach, from a sample: warps read 32
// scores each, spread over the segment. size > kCapacity, which the sample and its keys fit.
template <int kThreads, typename scalar_t>
__device__ typename Key<scalar_t>::key_t sampled_bound(const Segment<scalar_t>& segment, int k,
                                                       Space<scalar_t, kThreads>& space) {
  using key_t = typename Key<scalar_t>::key_t;
  constexpr int kSample = Space<scalar_t, kThreads>::kCapacity;
  key_t* sample = reinterpret_cast<key_t*>(space.list);
  const int step = segment.size / (kSample / 32);
  for (int i = threadIdx.x; i < kSample; i += kThreads) {
    sample[i] = segment.key(i / 32 * step + i % 32);
  }
  // Of the k best, `expected` are in the sample. Four standard deviations more are seldom too few;
  // half the capacity, where that is less, is seldom too many.
  const int expected = static_cast<int>(int64_t(k) * kSample / segment.size) + 1;
  const int wanted = expected + 4 * static_cast<int>(sqrtf(static_cast<float>(expected))) + 4;
  const int most = static_cast<int>(int64_t(kSample) * (kSample / 2) / segment.size);
  const int rank = max(1, min(wanted, most));
  __syncthreads();
  const auto cut = cut_at<kThreads, Key<scalar_t>::kBits>(
      kSample, rank, [sample](int i) { return sample[i]; }, space);
  return cut.bound;
}

// Bit i is set where the i-th of two packed scores reaches the bound, twice in bound; NaN does not.
template <typename scalar_t>
__device__ unsigned pair_reaching(uint32_t scores, uint32_t bound) {
  unsigned mask;
  if constexpr (std::is_same_v<scalar_t, torch::headeronly::BFloat16>) {
    mask = __hge2_mask(bits_as<__nv_bfloat162>(scores), bits_as<__nv_bfloat162>(bound));
  } else {
    mask = __hge2_mask(bits_as<__half2>(scores), bits_as<__half2>(bound));
  }
  return (mask & 1) | (mask >> 30 & 2);
}

// Bit i is set where the i-th of 16 bytes of scores reaches the bound; NaN does not.
template <typename scalar_t>
__device__ unsigned reaching(const uint4& scores, scalar_t bound) {
  const uint32_t words[4] = {scores.x, scores.y, scores.z, scores.w};
  unsigned reached = 0;
  if constexpr (sizeof(scalar_t) == 2) {
    const uint32_t twice = bits_as<uint16_t>(bound) * 0x10001u;
    for (int w = 0; w < 4; ++w) reached |= pair_reaching<scalar_t>(words[w], twice) << 2 * w;
  } else if constexpr (sizeof(scalar_t) == 4) {
    for (int w = 0; w < 4; ++w) {
      reached |= static_cast<unsigned>(bits_as<float>(words[w]) >= bound) << w;
    }
  } else {
    for (int w = 0; w < 2; ++w) {
      const uint64_t bits = uint64_t(words[2 * w + 1]) << 32 | words[2 * w];
      reached |= static_cast<unsigned>(bits_as<double>(bits) >= bound) << w;
    }
  }
  return reached;
}

// Appends every score that reaches the bound; returns how many there are, of which the first
// kCapacity are in space.list, in no order.
template <int kThreads, typename scalar_t>
__device__ int collect_reaching(const Segment<scalar_t>& segment, scalar_t bound,
                                Space<scalar_t, kThreads>& space) {
  constexpr int kLanes = 16 / sizeof(scalar_t);
  constexpr int kLoads = 4;  // in flight a thread
  if (threadIdx.x == 0) space.count = 0;
  __syncthreads();
  const auto append = [&](int i) {
    const int place = atomicAdd(&space.count, 1);
    if (place < Space<scalar_t, kThreads>::kCapacity) space.list[place] = segment.packed(i);
  };
  // Up to the first 16-byte boundary and after the last, single scores.
  const auto misaligned = reinterpret_cast<uintptr_t>(segment.scores) % 16 / sizeof(scalar_t);
  const int head = static_cast<int>((kLanes - misaligned) % kLanes);
  const int vectors = (segment.size - head) / kLanes, tail = head + vectors * kLanes;
  const int alone = threadIdx.x < head ? threadIdx.x : tail + static_cast<int>(threadIdx.x) - head;
  using number_t = acc_t<scalar_t>;
  if (alone < segment.size && number_t(segment.scores[alone]) >= number_t(bound)) append(alone);

  const auto* body = reinterpret_cast<const uint4*>(segment.scores + head);
  for (int begin = threadIdx.x; begin < vectors; begin += kLoads * kThreads) {
    uint4 loaded[kLoads] = {};
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (begin + u * kThreads < vectors) loaded[u] = __ldg(body + begin + u * kThreads);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      const int vector = begin + u * kThreads;
      unsigned reached = vector < vectors ? reaching(loaded[u], bound) : 0;
      for (; reached != 0; reached &= reached - 1) {
        append(head + vector * kLanes + __ffs(static_cast<int>(reached)) - 1);
      }
    }
  }
  __syncthreads();
  return space.count;
}

// Writes the k best to list, in no order: all above the cut, and the first `ties` of those on it.
template <int kThreads, typename scalar_t>
__device__ void collect_exact(const Segment<scalar_t>& segment, int k,
                              typename Key<scalar_t>::packed_t* list,
                              Space<scalar_t, kThreads>& space) {
  using key_t = typename Key<scalar_t>::key_t;
  const Cut<key_t> cut = cut_at<kThreads, Key<scalar_t>::kBits>(
      segment.size, k, [&](int i) { return segment.key(i); }, space);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) space.count = 0;
  int taken = 0;  // of the ties so far, the same in every thread
  __syncthreads();
  for (int begin = 0; begin < segment.size; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const bool inside = i < segment.size;
    const key_t key = inside ? segment.key(i) & cut.mask : 0;
    if (inside && key > cut.bound) list[atomicAdd(&space.count, 1)] = segment.packed(i);
    if (taken >= cut.ties) continue;
    const bool equal = inside && key == cut.bound;
    const unsigned equals = __ballot_sync(0xffffffffu, equal);
    if (lane == 0) space.warp_counts[warp] = __popc(equals);
    __syncthreads();
    int place = taken + __popc(equals & ((1u << lane) - 1));
    for (int w = 0; w < kThreads / 32; ++w) {
      const int count = space.warp_counts[w];
      if (w < warp) place += count;
      taken += count;
    }
    if (equal && place < cut.ties) list[k - cut.ties + place] = segment.packed(i);
    __syncthreads();
  }
}

// Copies the k largest of list, all distinct, to space.best, in no order. k <= kBest
template <int kThreads, typename scalar_t>
__device__ void keep_best(const typename Key<scalar_t>::packed_t* list, int size, int k,
                          Space<scalar_t, kThreads>& space) {
  const auto cut = cut_at<kThreads, Key<scalar_t>::kPackedBits>(
      size, k, [list](int i) { return list[i]; }, space);
  if (threadIdx.x == 0) space.count = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += kThreads) {
    if (list[i] >= cut.bound) space.best[atomicAdd(&space.count, 1)] = list[i];
  }
  __syncthreads();
}

// Bitonic, in place; list must have room for `size` rounded up to a power of two.
template <int kThreads, typename packed_t>
__device__ void sort_descending(packed_t* list, int size) {
  int padded = 1;
  while (padded < size) padded *= 2;
  for (int i = size + threadIdx.x; i < padded; i += kThreads) list[i] = 0;
  __syncthreads();
  for (int width = 2; width <= padded; width *= 2) {
    for (int distance = width / 2; distance > 0; distance /= 2) {
      for (int pair = threadIdx.x; pair < padded / 2; pair += kThreads) {
        const int low = 2 * pair - (pair & (distance - 1));
        const int high = low + distance;
        const bool descending = (low & width) == 0;
        const packed_t a = list[low], b = list[high];
        if ((a < b) == descending) {
          list[low] = b;
          list[high] = a;
        }
      }
      // The 32 pairs of a warp are 64 values of their own as long as the distance is at most 32.
      const int next = distance > 1 ? distance / 2 : width;
      if (max(distance, next) > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

}  // namespace
}  // namespace fastheads
