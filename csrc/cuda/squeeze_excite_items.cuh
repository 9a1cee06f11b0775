// How squeeze_excite on CUDA cuts a sample, [C, P] or channels-last [P, C], into items of 16 to 32
// KB, each for one block. The cuts depend on the shape of a sample alone, so sums have one order
// whatever the batch, the device or the launch.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "../squeeze_excite.h"
#include "common.cuh"

namespace fastheads {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kItemVectors = 4 * kThreads;  // contiguous x: an item is so many vectors in a row
constexpr int kStripPixels = 8;             // channels-last x: pixels of an item for each thread

// At least one, so that a stage without results is waited for as well.
__host__ __device__ inline int tiles_of(int size, int each) {
  return size > each ? (size - 1) / each + 1 : 1;
}

// Division of up to 2^50 by a number known on the host, without the registers of a 64-bit division:
// the quotient in double is off by one at most.
struct Divisor {
  int64_t value;
  double inverse;

  __device__ int64_t divide(int64_t n) const {
    const auto quotient = static_cast<int64_t>(static_cast<double>(n) * inverse);
    const int64_t rest = n - quotient * value;
    return quotient + (rest >= value) - (rest < 0);
  }
};

// How a sample is cut. Contiguous: item i is the vectors from i kItemVectors on, and the partial
// sum of channel c in it has slot i + c, which no other pair has since both ascend along memory.
// Channels-last: an item is a strip of lanes vectors of channels by a piece of the pixels; channel
// c of piece k has slot k C + c. Items are counted in 32 bits: 2^31 of them would take terabytes.
struct Items {
  int64_t channels;
  Divisor pixels;
  int64_t slots;            // partial sums
  int count;                // items
  int strips, lanes, rows;  // contiguous: lanes sum a channel; channels-last: [rows, lanes] threads
  bool channels_last;

  __device__ int64_t begin(int64_t n) const { return n * channels * pixels.value; }
};

template <int V>
Items cut(const SqueezeExciteShape& shape) {
  constexpr int64_t kMost = 1 << 30;  // 32 bits count them, with room for a step
  STD_TORCH_CHECK(shape.channels <= kMost && shape.hidden <= kMost,
                  "squeeze_excite: x and hidden must have at most ", kMost, " channels, got ",
                  shape.channels, " and ", shape.hidden);
  Items items{shape.channels, {shape.pixels, 1.0 / static_cast<double>(shape.pixels)}};
  const int64_t vectors = shape.channels / V;
  items.channels_last = shape.channels_last || shape.pixels == 1;  // [C, 1] is [1, C] as well
  if (items.channels_last) {
    items.strips = static_cast<int>(std::max<int64_t>(ceil_div(vectors, 32), 1));
    items.lanes = static_cast<int>(std::max<int64_t>(ceil_div(vectors, items.strips), 1));
    items.rows = kThreads / items.lanes;
    const int64_t pieces = ceil_div(shape.pixels, items.rows * kStripPixels);
    items.count = static_cast<int>(items.strips * pieces);
    items.slots = pieces * shape.channels;
  } else {
    const int64_t each = std::min<int64_t>(shape.pixels / V, kItemVectors);
    items.count = static_cast<int>(ceil_div(shape.channels * shape.pixels, kItemVectors * V));
    items.slots = items.count + shape.channels;
    for (items.lanes = 1; items.lanes < 32 && items.lanes * 8 < each;) items.lanes *= 2;
  }
  return items;
}

// Whether whole vectors of 16 bytes cover every sample (contiguous: with at most two channels in
// one) and every pixel (channels-last).
template <typename scalar_t>
bool fits_vectors(const SqueezeExciteShape& shape, std::initializer_list<const void*> maps) {
  constexpr int V = 16 / sizeof(scalar_t);
  for (const void* map : maps) {
    if (reinterpret_cast<uintptr_t>(map) % 16 != 0) return false;
  }
  if (shape.channels_last || shape.pixels == 1) return shape.channels % V == 0;
  return shape.pixels >= V && shape.channels * shape.pixels % V == 0;
}

// One item of contiguous x, cut into vectors of V elements. Its first channel may have begun before
// it; elements are counted from its begin.
template <int V>
struct RowItem {
  static constexpr int kElements = kItemVectors * V;
  int64_t begin;    // in the sample
  int64_t channel;  // the first
  int vectors;
  int pixels, until;  // of a channel, of the first; at most kElements, which no element reaches

  __device__ RowItem(const Items& items, int item)
      : begin(int64_t(item) * kElements), channel(items.pixels.divide(begin)) {
    vectors = clamp(items.channels * items.pixels.value - begin, kElements) / V;
    until = clamp((channel + 1) * items.pixels.value - begin, kElements);
    pixels = clamp(items.pixels.value, kElements);
  }
  static __device__ int clamp(int64_t size, int most) {
    return static_cast<int>(size < most ? size : most);
  }
  // How many channels after the first the element lies.
  __device__ int after(int element) const {
    return element < until ? 0 : 1 + static_cast<unsigned>(element - until) / pixels;
  }
  // The elements before the first of channel + after, and up to its last.
  __device__ int from(int after) const { return after == 0 ? 0 : until + (after - 1) * pixels; }
  __device__ int to(int after) const { return until + after * pixels; }
};

// Elements 0 to split - 1 of a vector are of channel c, the rest of channel c + 1.
struct Place {
  int64_t channel;
  int split;
  __device__ int64_t operator()(int j) const { return channel + (j >= split); }
};

template <int V>
__device__ Place place_of(const RowItem<V>& row, int vector) {
  const int after = row.after(vector * V), left = row.to(after) - vector * V;
  return {row.channel + after, left < V ? left : V};
}

// One item of channels-last x: the thread's V channels and its pixels, rows apart.
template <int V>
struct StripItem {
  int row, lane, piece;
  int64_t channel, offset;  // the thread's first channel, and its first element in the sample
  int64_t step;             // elements from one pixel of the thread to the next
  int pixels;               // of the thread; 0 if it is beyond the channels

  __device__ StripItem(const Items& items, int item)
      : row(threadIdx.x / items.lanes),
        lane(threadIdx.x % items.lanes),
        piece(item / items.strips),
        channel((int64_t(item % items.strips) * items.lanes + lane) * V),
        step(items.rows * items.channels) {
    const int64_t first = int64_t(piece) * items.rows * kStripPixels;
    offset = (first + row) * items.channels + channel;
    const int64_t left = items.pixels.value - first, most = items.rows * kStripPixels;
    const int present = static_cast<int>(left < most ? left : most);  // of all threads
    const bool inside = row < items.rows && channel < items.channels && row < present;
    pixels = inside ? (present - row - 1) / items.rows + 1 : 0;
  }
  __device__ int64_t operator()(int j) const { return channel + j; }
};

}  // namespace
}  // namespace fastheads
