// Means over the pixels of a sample, in both layouts, of values that are produced on the way:
// value(i, part) is the vector of elements i onwards of the sample, all of it or its first lanes.
// Sums run in a fixed order. Local to the file that includes this.
#pragma once

#include "float_vector.h"

namespace fastheads {
namespace {

constexpr int64_t kChannelBlock = 2048;  // whose sums stay in the first-level cache
constexpr int64_t kPixelGroup = 32;

// [channels, pixels], channels begin to end
template <class F, class Value>
void plane_means(Value value, int64_t pixels, int64_t begin, int64_t end,
                 typename F::sum_t* means) {
  using sum_t = typename F::sum_t;
  constexpr int64_t kStep = kLanes<sum_t>;
  for (int64_t c = begin; c < end; ++c) {
    const int64_t at = c * pixels;
    Vector<sum_t> sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * kStep <= pixels; i += 4 * kStep) {
      for (int64_t k = 0; k < 4; ++k) sums[k] += value(at + i + k * kStep, All{});
    }
    for (; i + kStep <= pixels; i += kStep) sums[0] += value(at + i, All{});
    if (i < pixels) sums[1] += value(at + i, Some{pixels - i});
    const Vector<sum_t> sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    means[c] = sum_lanes<sum_t>(sum) / static_cast<sum_t>(pixels);
  }
}

// sums[c] += the value of channel c, `at` on
template <class F, class Value>
void add_row(Value value, int64_t at, int64_t count, typename F::sum_t* sums) {
  using Sums = Float<typename F::sum_t>;
  for_vectors<typename F::sum_t>(count, [&](int64_t c, auto part) {
    Sums::store(sums + c, Sums::load(sums + c, part) + value(at + c, part), part);
  });
}

// [pixels, channels], channels begin to end. Pixel by pixel, because processors do not fetch ahead
// for several rows of one page; in groups, because long chains of additions round too often.
template <class F, class Value>
void column_means(Value value, int64_t channels, int64_t pixels, int64_t begin, int64_t end,
                  typename F::sum_t* means) {
  using sum_t = typename F::sum_t;
  for (int64_t first = begin; first < end; first += kChannelBlock) {
    const int64_t count = end - first < kChannelBlock ? end - first : kChannelBlock;
    sum_t totals[kChannelBlock], sums[kChannelBlock];
    for (int64_t c = 0; c < count; ++c) totals[c] = 0;
    for (int64_t group = 0; group < pixels; group += kPixelGroup) {
      const int64_t stop = pixels - group < kPixelGroup ? pixels : group + kPixelGroup;
      for (int64_t c = 0; c < count; ++c) sums[c] = 0;
      for (int64_t p = group; p < stop; ++p) add_row<F>(value, p * channels + first, count, sums);
      for (int64_t c = 0; c < count; ++c) totals[c] += sums[c];
    }
    for (int64_t c = 0; c < count; ++c) means[first + c] = totals[c] / static_cast<sum_t>(pixels);
  }
}

}  // namespace
}  // namespace fastheads
