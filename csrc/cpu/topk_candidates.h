// Candidates for the K best of a row: their order, a filter, an exact selection. Included by
// topk_select.h alone; everything is local to the file of an instruction set, as there.
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

}  // namespace
}  // namespace fastheads
