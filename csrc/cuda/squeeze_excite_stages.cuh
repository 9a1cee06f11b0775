// The stages of squeeze_excite on CUDA that go over x: device functions for one block and one item.
#pragma once

#include "squeeze_excite_items.cuh"

namespace fastheads {
namespace {

// A parameter in x's dtype or in the sums' (wide); null where it was left out.
template <typename scalar_t>
struct Parameter {
  using acc = acc_t<scalar_t>;
  const void* data;
  bool wide;

  __device__ acc at(int64_t i) const {
    if (std::is_same_v<acc, scalar_t> || wide) return static_cast<const acc*>(data)[i];
    return static_cast<acc>(static_cast<const scalar_t*>(data)[i]);
  }
  __device__ acc at(int64_t i, acc missing) const { return data != nullptr ? at(i) : missing; }
};

// Samples from first on; at most kSamples.
struct Rows {
  int64_t first;
  int count;
};

constexpr int kOutputs = 32;  // of a product's tile, one for each lane
constexpr int kSamples = 8;   // of a product's tile: so often is a weight used for each load

template <typename acc>
union Shared {
  static constexpr int kDepth = 512 / sizeof(acc);  // terms of a product at a time
  struct {
    acc first[kItemVectors], second[kItemVectors];
  } vectors;
  acc strip[8 * kThreads];
  struct {
    acc weights[kDepth][kOutputs + 1], inputs[kDepth][kSamples];
  } product;
  acc parts[kWarps][kSamples][kOutputs];
};

// 0 where mask is at most 0, and not where it is NaN; mask is not read where there is none.
template <typename packed_t, typename acc, int V>
__device__ void unpack_masked(const packed_t& packed, const packed_t& mask, bool has_mask,
                              acc (&out)[V]) {
  packed.unpack(out);
  if (!has_mask) return;
  acc signs[V];
  mask.unpack(signs);
#pragma unroll
  for (int j = 0; j < V; ++j) out[j] = signs[j] <= 0 ? acc(0) : out[j];
}

// Partial sums of one item of contiguous x: sums of whole vectors first, then lanes threads gather
// those of each channel. source: see squeeze_excite.cu and squeeze_excite_backward.cu.
template <int V, typename Source, typename acc>
__device__ void pool_rows(const Items& items, const Source& source, int64_t n, int item,
                          acc* partial, Shared<acc>& shared) {
  const RowItem<V> row(items, item);
  const int64_t base = items.begin(n) + row.begin;
  auto& [first, second] = shared.vectors;
#pragma unroll 1  // a batch on its way at a time: registers
  for (int v0 = threadIdx.x; v0 < kItemVectors; v0 += Source::kBatch * kThreads) {
    // Set, here and below: what a conditional load may leave as it was keeps its registers through
    // the whole loop over tickets.
    typename Source::Loaded loaded[Source::kBatch] = {};
#pragma unroll
    for (int b = 0; b < Source::kBatch; ++b) {
      const int v = v0 + b * kThreads;
      if (v < row.vectors) loaded[b] = source.load(base + v * V);
    }
#pragma unroll
    for (int b = 0; b < Source::kBatch; ++b) {
      const int v = v0 + b * kThreads;
      if (v >= row.vectors) break;
      const Place place = place_of(row, v);
      acc terms[V], sums[2] = {0, 0};
      source.terms(loaded[b], base + v * V, place, terms);
#pragma unroll
      for (int j = 0; j < V; ++j) (j < place.split ? sums[0] : sums[1]) += terms[j];
      first[v] = sums[0];
      second[v] = sums[1];
    }
  }
  __syncthreads();
  const int end = row.vectors * V, channels = row.after(end - 1) + 1;
  const int lane = threadIdx.x % items.lanes;
  for (int c0 = 0; c0 < channels; c0 += kThreads / items.lanes) {
    const int c = c0 + threadIdx.x / items.lanes;
    acc sum = 0;
    if (c < channels) {
      const int begin = row.from(c), past = min(row.to(c), end);
      const bool shares = begin % V != 0;  // its first vector with the channel before
      if (shares && lane == 0) sum = second[begin / V];
      for (int v = begin / V + shares + lane; v * V < past; v += items.lanes) sum += first[v];
    }
    for (int step = items.lanes / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    if (c < channels && lane == 0) partial[n * items.slots + item + row.channel + c] = sum;
  }
  __syncthreads();  // the shared memory is used again
}

template <int V, typename Source, typename acc>
__device__ void pool_strip(const Items& items, const Source& source, int64_t n, int item,
                           acc* partial, Shared<acc>& shared) {
  const StripItem<V> strip(items, item);
  const int64_t base = items.begin(n) + strip.offset;
  acc sums[V] = {};
#pragma unroll 1  // a batch on its way at a time: registers
  for (int p = 0; p < strip.pixels; p += Source::kBatch) {
    typename Source::Loaded loaded[Source::kBatch] = {};
#pragma unroll
    for (int b = 0; b < Source::kBatch; ++b) {
      if (p + b < strip.pixels) loaded[b] = source.load(base + (p + b) * strip.step);
    }
#pragma unroll
    for (int b = 0; b < Source::kBatch; ++b) {
      if (p + b >= strip.pixels) break;
      acc terms[V];
      source.terms(loaded[b], base + (p + b) * strip.step, strip, terms);
#pragma unroll
      for (int j = 0; j < V; ++j) sums[j] += terms[j];
    }
  }
  const int width = items.lanes * V;  // at most kThreads
  const int row = threadIdx.x / items.lanes, lane = threadIdx.x % items.lanes;
  if (row < items.rows) {
#pragma unroll
    for (int j = 0; j < V; ++j) shared.strip[row * width + lane * V + j] = sums[j];
  }
  __syncthreads();
  const int64_t channel = item % items.strips * width + threadIdx.x;
  if (threadIdx.x < width && channel < items.channels) {
    acc sum = 0;
    for (int r = 0; r < items.rows; ++r) sum += shared.strip[r * width + threadIdx.x];
    partial[n * items.slots + int64_t(strip.piece) * items.channels + channel] = sum;
  }
  __syncthreads();  // the shared memory is used again
}

// The sum of a whole channel from its partial sums, in the order of memory.
template <int V, typename acc>
__device__ acc channel_sum(const Items& items, const acc* partial, int64_t n, int64_t c) {
  constexpr int64_t kElements = kItemVectors * V;
  int64_t slot = c, step = items.channels, count = 0;
  if (items.channels_last) {
    count = items.count / items.strips;
  } else if (items.count > 0) {
    const int64_t first = c * items.pixels.value / kElements;
    slot = first + c;
    step = 1;
    count = ((c + 1) * items.pixels.value - 1) / kElements - first + 1;
  }
  const acc* slots = partial + n * items.slots + slot;
  acc sum = 0;
#pragma unroll 8
  for (int64_t i = 0; i < count; ++i) sum += slots[i * step];
  return sum;
}

// y = map(x) with coefficients (a, b) of each channel, on one item.
template <int V, typename Map>
__device__ void scale_rows(const Items& items, const Map& map, int64_t n, int item) {
  const RowItem<V> row(items, item);
  const int64_t base = items.begin(n) + row.begin;
#pragma unroll 1  // a batch on its way at a time: registers
  for (int v0 = threadIdx.x; v0 < kItemVectors; v0 += 2 * kThreads) {
    typename Map::Loaded loaded[2] = {};
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int v = v0 + b * kThreads;
      if (v < row.vectors) loaded[b] = map.load(base + v * V);
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int v = v0 + b * kThreads;
      if (v >= row.vectors) break;
      const Place place = place_of(row, v);
      const auto here = map.coefficients(n, place.channel);
      auto next = here;
      if (place.split < V) next = map.coefficients(n, place.channel + 1);
      map.write(loaded[b], base + v * V, [&](int j) { return j < place.split ? here : next; });
    }
  }
}

template <int V, typename Map>
__device__ void scale_strip(const Items& items, const Map& map, int64_t n, int item) {
  const StripItem<V> strip(items, item);
  if (strip.pixels == 0) return;
  const int64_t base = items.begin(n) + strip.offset;
  decltype(map.coefficients(n, 0)) of_channel[V];
#pragma unroll
  for (int j = 0; j < V; ++j) of_channel[j] = map.coefficients(n, strip.channel + j);
#pragma unroll 1  // a batch on its way at a time: registers
  for (int p = 0; p < strip.pixels; p += 2) {
    typename Map::Loaded loaded[2] = {};
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (p + b < strip.pixels) loaded[b] = map.load(base + (p + b) * strip.step);
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (p + b >= strip.pixels) break;
      map.write(loaded[b], base + (p + b) * strip.step, [&](int j) { return of_channel[j]; });
    }
  }
}

template <int V, typename Source, typename acc>
__device__ void pool_item(const Items& items, const Source& source, int64_t n, int item,
                          acc* partial, Shared<acc>& shared) {
  if (items.channels_last) {
    pool_strip<V>(items, source, n, item, partial, shared);
  } else {
    pool_rows<V>(items, source, n, item, partial, shared);
  }
}

template <int V, typename Map>
__device__ void scale_item(const Items& items, const Map& map, int64_t n, int item) {
  if (items.channels_last) {
    scale_strip<V>(items, map, n, item);
  } else {
    scale_rows<V>(items, map, n, item);
  }
}

}  // namespace
}  // namespace fastheads
