// Selection by one block: ordered keys, radix selection, ordered collection, bitonic sort.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../common.h"

namespace fastheads {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// The key of a score is an unsigned integer in the order of the numbers, -0 equal to +0 and NaN at
// 0. Packed with its label it is unique, and the largest packed value is the best: highest score
// first, then lowest label. No packed value is 0, so 0 pads.
template <typename scalar_t>
struct Key {
  static constexpr bool kWide = std::is_same_v<scalar_t, double>;
  using key_t = std::conditional_t<kWide, uint64_t, uint32_t>;
  using packed_t = std::conditional_t<kWide, unsigned __int128, uint64_t>;

  static __device__ key_t of(scalar_t score) {
    constexpr key_t kSign = key_t(1) << (8 * sizeof(key_t) - 1);
    const auto value = static_cast<acc_t<scalar_t>>(score);
    if (value != value) return 0;
    key_t bits;
    if constexpr (kWide) {
      bits = static_cast<key_t>(__double_as_longlong(value));
    } else {
      bits = __float_as_uint(value);
    }
    return bits & kSign ? kSign - (bits & ~kSign) : kSign + bits;
  }
  static __device__ packed_t pack(key_t key, int label) {
    return packed_t(key) << 32 | static_cast<uint32_t>(~label);
  }
  static __device__ int label(packed_t packed) { return ~static_cast<int>(packed); }
};

template <typename scalar_t>
struct Candidates {
  using packed_t = typename Key<scalar_t>::packed_t;
  static constexpr int kCapacity = 32768 / sizeof(packed_t);  // 32 KB: several blocks a processor
  packed_t packed[kCapacity];
};

struct Scratch {
  int histogram[256];
  int warp_counts[kWarps];
  int digit, above;
  int count;
};

template <typename key_t>
struct KthKey {
  key_t key;  // of the k-th best
  int ties;   // how many equal to it are among the k best, at least 1
};

// Radix selection, 8 bits a pass, over key_at(0), ..., key_at(size - 1); 1 <= k <= size.
template <typename key_t, typename KeyAt>
__device__ KthKey<key_t> kth_key(int size, int k, const KeyAt& key_at, Scratch& scratch) {
  constexpr int kBits = 8 * sizeof(key_t);
  key_t prefix = 0, mask = 0;
  for (int shift = kBits - 8; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += kThreads) scratch.histogram[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const key_t key = key_at(i);
      if ((key & mask) == prefix) {
        atomicAdd(&scratch.histogram[static_cast<int>(key >> shift) & 255], 1);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int above = 0, digit = 255;
      while (above + scratch.histogram[digit] < k) above += scratch.histogram[digit--];
      scratch.digit = digit;
      scratch.above = above;
    }
    __syncthreads();
    k -= scratch.above;
    prefix |= static_cast<key_t>(scratch.digit) << shift;
    mask |= static_cast<key_t>(255) << shift;
    __syncthreads();
  }
  return {prefix, k};
}

// Appends every label whose key reaches a bound taken from a sample; returns how many there are, of
// which the first kCapacity are in list, in no order.
// row: [labels]; list: [kCapacity], whose memory holds the sample first
template <typename scalar_t>
__device__ int collect_above_sample(const scalar_t* row, int labels,
                                    typename Key<scalar_t>::packed_t* list, Scratch& scratch) {
  using key_t = typename Key<scalar_t>::key_t;
  constexpr int kCapacity = Candidates<scalar_t>::kCapacity;
  key_t* sample = reinterpret_cast<key_t*>(list);
  const int step = labels / (kCapacity / kThreads);  // consecutive scores a step, for coalescing
  for (int i = threadIdx.x; i < kCapacity; i += kThreads) {
    sample[i] = Key<scalar_t>::of(row[int64_t(i / kThreads) * step + threadIdx.x]);
  }
  if (threadIdx.x == 0) scratch.count = 0;
  __syncthreads();
  // Half the capacity is expected to pass: far from too few (K <= capacity / 4) and from too many.
  const int rank = max(1, kCapacity * (kCapacity / 2) / labels);
  const key_t bound =
      kth_key<key_t>(kCapacity, rank, [sample](int i) { return sample[i]; }, scratch).key;
  __syncthreads();  // the sample is no longer needed
#pragma unroll 4
  for (int label = threadIdx.x; label < labels; label += kThreads) {
    const key_t key = Key<scalar_t>::of(row[label]);
    if (key >= bound) {
      const int place = atomicAdd(&scratch.count, 1);
      if (place < kCapacity) list[place] = Key<scalar_t>::pack(key, label);
    }
  }
  __syncthreads();
  return scratch.count;
}

// Writes the k best to list, in no order: all above the k-th key, and the first `ties` equal to it.
template <typename scalar_t>
__device__ void collect_exact(const scalar_t* row, int labels, int k,
                              typename Key<scalar_t>::key_t kth, int ties,
                              typename Key<scalar_t>::packed_t* list, Scratch& scratch) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) scratch.count = 0;
  int taken = 0;  // equal ones so far, the same in every thread
  __syncthreads();
  for (int64_t begin = 0; begin < labels; begin += kThreads) {
    const int64_t label = begin + threadIdx.x;
    const auto key = label < labels ? Key<scalar_t>::of(row[label]) : 0;
    if (label < labels && key > kth) {
      list[atomicAdd(&scratch.count, 1)] = Key<scalar_t>::pack(key, static_cast<int>(label));
    }
    if (taken >= ties) continue;
    const bool equal = label < labels && key == kth;
    const unsigned equals = __ballot_sync(0xffffffffu, equal);
    if (lane == 0) scratch.warp_counts[warp] = __popc(equals);
    __syncthreads();
    int place = taken + __popc(equals & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      const int count = scratch.warp_counts[w];
      if (w < warp) place += count;
      taken += count;
    }
    if (equal && place < ties) {
      list[k - ties + place] = Key<scalar_t>::pack(key, static_cast<int>(label));
    }
    __syncthreads();
  }
}

// Bitonic, in place; list must have room for `size` rounded up to a power of two.
template <typename packed_t>
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
      __syncthreads();
    }
  }
}

}  // namespace
}  // namespace fastheads
