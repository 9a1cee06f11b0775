// The K best of a row in one streaming pass: a bound from a sample, a filter, an exact selection.
// Included by one file an instruction set; everything is local to it, so that no function compiled
// for AVX-512 can be linked into the code that runs everywhere.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "topk_rows.h"

namespace fastheads {
namespace {

// A float format as its bits. The key of a score is its sign-magnitude bits as an integer: the
// order of the numbers, -0 equal to +0. NaN has the lowest key of all.
template <typename raw, raw inf>
struct Format {
  using raw_t = raw;
  using key_t = std::conditional_t<sizeof(raw) == 8, int64_t, int32_t>;
  static constexpr raw_t kMagnitude = std::numeric_limits<raw_t>::max();
  static constexpr raw_t kInf = inf;
  static constexpr raw_t kNan = std::numeric_limits<raw_t>::min();

  static key_t key(raw_t bits) {
    const raw_t magnitude = bits & kMagnitude;
    const key_t key = bits < 0 ? -magnitude : magnitude;
    return magnitude > inf ? kNan : key;
  }
};

// Which scores of a block may have a key >= low, in two instructions a vector and without keys:
// (bits ^ flip) >= bound. Positive NaN passes as well; the selection drops it.
template <class F>
struct Filter {
  using raw_t = typename F::raw_t;
  raw_t flip, bound;

  explicit Filter(typename F::key_t low)
      : flip(low > 0 ? 0 : F::kMagnitude),
        bound(static_cast<raw_t>(low > 0 || low == F::kNan ? low : low - 1)) {}
};

// As many numbers as fit kBytes. Loops over them are written out as vectors, because compilers do
// not keep a loop over lanes in registers; wider vectors than the processor's would be taken apart.
template <typename number_t, int kBytes>
struct Vector {
  static constexpr int64_t kLanes = kBytes / sizeof(number_t);
  typedef number_t Lanes __attribute__((vector_size(kBytes)));
  typedef Lanes Unaligned __attribute__((aligned(sizeof(number_t)), may_alias));
  static const Unaligned& at(const number_t* x) { return *reinterpret_cast<const Unaligned*>(x); }
};

// Isa::mask(x, flip, bound) has bit i set if (x[i] ^ flip) >= bound, for a block of 64; the vectors
// of the processor have Isa::kBytes.
template <class Isa, class F>
struct Candidates {
  using key_t = typename F::key_t;
  using Keys = Vector<key_t, Isa::kBytes>;
  static constexpr int64_t kLanes = Keys::kLanes;
  key_t* keys;       // [capacity + 2 kBlock]
  uint32_t* labels;  // [capacity + 2 kBlock], ascending
  int64_t size = 0;

  int64_t count_from(key_t low) const {  // how many keys are >= low
    typename Keys::Lanes even = {}, odd = {};
    int64_t i = 0, count = 0;
    for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
      even -= Keys::at(keys + i) >= low;
      odd -= Keys::at(keys + i + kLanes) >= low;
    }
    for (; i < size; ++i) count += keys[i] >= low;
    even += odd;
    for (int64_t lane = 0; lane < kLanes; ++lane) count += even[lane];
    return count;
  }

  // A low such that k <= count_from(low), and count_from(low) <= limit unless equal keys forbid it;
  // then low is the k-th best key. Bisection over the integers: at most 32 or 64 vectorised counts.
  key_t bound(int64_t k, int64_t limit, int64_t* count) const {
    key_t low = keys[0], high = keys[0];
    for (int64_t i = 1; i < size; ++i) {
      low = keys[i] < low ? keys[i] : low;
      high = keys[i] > high ? keys[i] : high;
    }
    *count = size;
    while (*count > limit && low < high) {
      using wide_t = std::make_unsigned_t<key_t>;
      const wide_t gap = static_cast<wide_t>(high) - static_cast<wide_t>(low);
      const key_t middle = static_cast<key_t>(static_cast<wide_t>(low) + gap / 2 + gap % 2);
      const int64_t above = count_from(middle);
      if (above >= k) {
        low = middle;
        *count = above;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  // Keeps k to limit candidates, the k best among them; returns the key that a later label, which
  // loses every tie, must reach.
  key_t shrink(int64_t k, int64_t limit) {
    int64_t count;
    const key_t low = bound(k, limit, &count);
    int64_t ties = count > limit ? k - count_from(low + 1) : count;  // keep the first of the equal
    int64_t kept = 0;
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      uint64_t mask = Isa::mask(keys + begin, key_t(0), low);
      if (size - begin < kBlock) mask &= (uint64_t(1) << (size - begin)) - 1;
      for (; mask != 0; mask &= mask - 1) {
        const int64_t i = begin + __builtin_ctzll(mask);
        if (keys[i] == low && ties-- <= 0) continue;
        keys[kept] = keys[i];
        labels[kept++] = labels[i];
      }
    }
    size = kept;
    return low + 1;
  }

  // Writes the k best labels: the place of a label is the number of candidates that beat it. Has no
  // branch to mispredict, so for few candidates it is faster than sorting.
  void rank(int64_t k, int64_t* top) const {
    typename Keys::Lanes lane;
    for (int64_t i = 0; i < kLanes; ++i) lane[i] = static_cast<key_t>(i);
    for (int64_t begin = 0; begin < size; begin += kLanes) {
      const typename Keys::Lanes mine = Keys::at(keys + begin);
      const int64_t end = std::min(begin + kLanes, size);
      typename Keys::Lanes place = {};
      for (int64_t j = 0; j < begin; ++j) place = keys[j] >= mine ? place + 1 : place;
      for (int64_t j = begin; j < end; ++j) {
        const auto later = lane > static_cast<key_t>(j - begin);
        place -= (keys[j] > mine) | ((keys[j] == mine) & later);
      }
      for (int64_t j = end; j < size; ++j) place = keys[j] > mine ? place + 1 : place;
      for (int64_t i = begin; i < end; ++i) {
        if (place[i - begin] < k) top[place[i - begin]] = labels[i];
      }
    }
  }

  // Writes all labels, by sorting. order: [size]
  void sort(uint32_t* order, int64_t* top) const {
    for (int64_t i = 0; i < size; ++i) order[i] = static_cast<uint32_t>(i);
    std::sort(order, order + size, [this](uint32_t a, uint32_t b) {
      return keys[a] != keys[b] ? keys[a] > keys[b] : a < b;
    });
    for (int64_t i = 0; i < size; ++i) top[i] = labels[order[i]];
  }
};

// A lower bound of the k-th best key, from all of the row or, in longer ones, from the first
// quarter of each eighth. The maxima of disjoint sets of scores are scores of the row, so their
// k-th best cannot be above the row's; it is near, because few of the k best share one of 3 k sets.
struct Sample {
  int64_t runs, run, set, segments, lanes;  // a segment of a run is `lanes` interleaved sets

  Sample(int64_t labels, int64_t k, int64_t lanes_, bool whole) : lanes(lanes_) {
    runs = whole ? 1 : 8;
    run = labels / runs;
    const int64_t sampled = whole ? run : run / 4;
    set = std::max<int64_t>(1, runs * sampled / std::max<int64_t>(3 * k, 256));
    segments = sampled / (set * lanes);
  }
  int64_t maxima() const { return runs * segments * lanes; }
};

// Of the bits as signed integers, the largest is the best score if that is at least 0, otherwise
// the smallest is. A set with positive NaN counts for nothing.
template <class Isa, class F>
void sample_maxima(const typename F::raw_t* row, const Sample& sample, typename F::key_t* maxima) {
  using raw_t = typename F::raw_t;
  using Raws = Vector<raw_t, Isa::kBytes>;
  for (int64_t r = 0; r < sample.runs; ++r) {
    const raw_t* x = row + r * sample.run;
    for (int64_t s = 0; s < sample.segments; ++s) {
      typename Raws::Lanes largest = Raws::at(x), smallest = largest;
      for (int64_t i = 0; i < sample.set; ++i, x += Raws::kLanes) {
        const typename Raws::Lanes bits = Raws::at(x);
        largest = bits > largest ? bits : largest;
        smallest = bits < smallest ? bits : smallest;
      }
      for (int64_t lane = 0; lane < Raws::kLanes; ++lane) {
        *maxima++ = F::key(largest[lane] < 0 ? smallest[lane] : largest[lane]);
      }
    }
  }
}

constexpr int64_t kMaxRanked = 256;            // where sorting begins to win
constexpr int64_t kMaxWholeBytes = 512 << 10;  // of a row that is sampled whole: half the L2 cache

template <class Isa, class F>
void select_row(const typename F::raw_t* row, const TopkRows& shape, const Sample& sample,
                const TopkWorkspace& workspace, int64_t* top) {
  using key_t = typename F::key_t;
  const int64_t length = shape.labels, k = shape.k, capacity = shape.capacity;
  Candidates<Isa, F> found{static_cast<key_t*>(workspace.keys), workspace.labels};
  key_t low = F::kNan;  // everything passes
  if (sample.maxima() >= k) {
    int64_t count;
    sample_maxima<Isa, F>(row, sample, found.keys);
    low = Candidates<Isa, F>{found.keys, nullptr, sample.maxima()}.bound(k, k + k / 8, &count);
  }
  const auto append = [&](int64_t label) {
    found.keys[found.size] = F::key(row[label]);
    found.labels[found.size++] = static_cast<uint32_t>(label);
  };
  const auto append_all = [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < end - begin; ++i) {
      found.keys[found.size + i] = F::key(row[begin + i]);
      found.labels[found.size + i] = static_cast<uint32_t>(begin + i);
    }
    found.size += end - begin;
  };
  Filter<F> filter(low);
  int64_t label = 0, run = 0;
  if (low == F::kNan) append_all(0, label = capacity);
  for (; label + kBlock <= length; label += kBlock) {
    // The first half of each run of the next row is on its way while this row passes.
    if (label - run >= sample.run) run += sample.run;
    const auto* next = row + shape.stride + run + (label - run) / 2;
    for (int64_t i = 0; i < kBlock / 2; i += 64 / sizeof(*next)) __builtin_prefetch(next + i, 0, 2);
    for (uint64_t mask = Isa::mask(row + label, filter.flip, filter.bound); mask != 0;
         mask &= mask - 1) {
      append(label + __builtin_ctzll(mask));
    }
    if (found.size > capacity) {
      low = found.shrink(k, k + k / 8);
      if (low > F::kInf) break;  // k scores are infinite
      filter = Filter<F>(low);
    }
  }
  if (low <= F::kInf) append_all(label, length);
  if (k + k / 2 <= kMaxRanked) {
    if (found.size > k + k / 2) found.shrink(k, k + k / 8);
    found.rank(k, top);
  } else {
    found.shrink(k, k);
    found.sort(workspace.order, top);
  }
}

template <class Isa, class F>
void select_rows_of(const void* scores, const TopkRows& shape, int64_t begin, int64_t end,
                    const TopkWorkspace& workspace, int64_t* top) {
  using raw_t = typename F::raw_t;
  const auto* rows = static_cast<const raw_t*>(scores);
  const bool whole = shape.labels * static_cast<int64_t>(sizeof(raw_t)) <= kMaxWholeBytes;
  const Sample sample(shape.labels, shape.k, Isa::kBytes / sizeof(raw_t), whole);
  for (int64_t n = begin; n < end; ++n) {
    select_row<Isa, F>(rows + n * shape.stride, shape, sample, workspace, top + n * shape.k);
  }
}

template <class Isa>
void select_rows(FloatFormat format, const void* scores, const TopkRows& shape, int64_t begin,
                 int64_t end, const TopkWorkspace& workspace, int64_t* top) {
  using Float64 = Format<int64_t, 0x7ff0000000000000>;
  using Float32 = Format<int32_t, 0x7f800000>;
  using Float16 = Format<int16_t, 0x7c00>;
  using BFloat16 = Format<int16_t, 0x7f80>;
  const auto select = format == FloatFormat::kFloat64   ? select_rows_of<Isa, Float64>
                      : format == FloatFormat::kFloat32 ? select_rows_of<Isa, Float32>
                      : format == FloatFormat::kFloat16 ? select_rows_of<Isa, Float16>
                                                        : select_rows_of<Isa, BFloat16>;
  select(scores, shape, begin, end, workspace, top);
}

}  // namespace
}  // namespace fastheads
