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

// Best score first, then lowest label: one integer, largest first.
template <class F>
struct Candidate {
  using packed_t = std::conditional_t<sizeof(typename F::key_t) == 8, unsigned __int128, uint64_t>;
  packed_t packed;

  Candidate(typename F::key_t key, uint32_t label) {
    using bits_t = std::make_unsigned_t<typename F::key_t>;
    const bits_t ordered = static_cast<bits_t>(key) ^ (bits_t(1) << (8 * sizeof(bits_t) - 1));
    packed = packed_t(ordered) << 32 | static_cast<uint32_t>(~label);
  }
  uint32_t label() const { return ~static_cast<uint32_t>(packed); }
  bool operator<(const Candidate& other) const { return packed > other.packed; }
};

template <class F>
struct Candidates {
  using key_t = typename F::key_t;
  key_t* keys;       // [capacity + 2 kBlock]
  uint32_t* labels;  // [capacity + 2 kBlock], ascending
  int64_t size = 0;

  int64_t count_from(key_t low) const {  // how many keys are >= low
    using wide_t = std::make_unsigned_t<key_t>;
    wide_t count = 0;
    for (int64_t i = 0; i < size; ++i) count += keys[i] >= low;
    return static_cast<int64_t>(count);
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
    for (int64_t i = 0; i < size; ++i) {
      const bool keep = keys[i] > low || (keys[i] == low && ties > 0);
      ties -= keys[i] == low;
      keys[kept] = keys[i];
      labels[kept] = labels[i];
      kept += keep;
    }
    size = kept;
    return low + 1;
  }
};

constexpr int64_t kRuns = 8;  // the sample is the first quarter of each eighth of a row

// A lower bound of the k-th best key from a quarter of the row. The maxima of disjoint sets of
// scores are scores of the row, so their k-th best cannot be above the row's.
template <class F>
typename F::key_t sampled_bound(const typename F::raw_t* row, int64_t labels, int64_t k,
                                int64_t capacity, typename F::key_t* maxima) {
  constexpr int64_t kLanes = 16;
  const int64_t in_run = capacity / kLanes / kRuns, segments = in_run * kRuns;
  const int64_t run = labels / kRuns;
  const int64_t sampled = run / in_run / 4 / kLanes * kLanes;
  using raw_t = typename F::raw_t;
  // Written out as vectors, because compilers do not keep a loop over lanes in registers.
  typedef raw_t Lanes __attribute__((vector_size(kLanes * sizeof(raw_t))));
  for (int64_t s = 0; s < segments; ++s) {
    const raw_t* x = row + s / in_run * run + s % in_run * sampled;
    Lanes best = Lanes{} + F::kNan;
    for (int64_t i = 0; i < sampled; i += kLanes) {
      Lanes bits;
      __builtin_memcpy(&bits, x + i, sizeof(bits));
      const Lanes magnitude = bits & F::kMagnitude;
      const Lanes sign = bits >> (8 * sizeof(raw_t) - 1);
      const Lanes key = magnitude > F::kInf ? Lanes{} + F::kNan : (magnitude ^ sign) - sign;
      best = key > best ? key : best;
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) maxima[s * kLanes + lane] = best[lane];
  }
  int64_t count;
  return Candidates<F>{maxima, nullptr, segments * kLanes}.bound(k, k + k / 8, &count);
}

// Isa::mask(x, filter) has bit i set if score i of a block of 64 passes the filter.
template <class Isa, class F>
void select_row(const typename F::raw_t* row, const TopkRows& shape, const TopkWorkspace& workspace,
                int64_t* top) {
  using key_t = typename F::key_t;
  const int64_t length = shape.labels, k = shape.k, capacity = shape.capacity;
  Candidates<F> found{static_cast<key_t*>(workspace.keys), workspace.labels};
  key_t low = F::kNan;  // everything passes
  if (length >= 4 * capacity) low = sampled_bound<F>(row, length, k, capacity, found.keys);
  Filter<F> filter(low);
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
  int64_t label = 0;
  if (low == F::kNan) append_all(0, label = capacity);
  const int64_t run = length / kRuns + 1;
  for (; label + kBlock <= length; label += kBlock) {
    // The sample of the next row is on its way while this row streams by.
    const int64_t begin = label / run * run;
    __builtin_prefetch(row + shape.stride + begin + (label - begin) / 4, 0, 2);
    for (uint64_t mask = Isa::mask(row + label, filter); mask != 0; mask &= mask - 1) {
      append(label + __builtin_ctzll(mask));
    }
    if (found.size > capacity) {
      low = found.shrink(k, k + k / 8);
      if (low > F::kInf) break;  // k scores are infinite
      filter = Filter<F>(low);
    }
  }
  if (low <= F::kInf) append_all(label, length);
  if (found.size > k) found.shrink(k, k);

  auto* sorted = static_cast<Candidate<F>*>(workspace.sorted);
  for (int64_t i = 0; i < k; ++i) sorted[i] = Candidate<F>(found.keys[i], found.labels[i]);
  std::sort(sorted, sorted + k);
  for (int64_t i = 0; i < k; ++i) top[i] = sorted[i].label();
}

template <class Isa, class F>
void select_rows_of(const void* scores, const TopkRows& shape, int64_t begin, int64_t end,
                    const TopkWorkspace& workspace, int64_t* top) {
  const auto* rows = static_cast<const typename F::raw_t*>(scores);
  for (int64_t n = begin; n < end; ++n) {
    select_row<Isa, F>(rows + n * shape.stride, shape, workspace, top + n * shape.k);
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
