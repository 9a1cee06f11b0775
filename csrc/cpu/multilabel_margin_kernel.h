// multilabel_margin of one row, read once. Included by one file an instruction set; everything is
// local to it.
#pragma once

#include <limits>

#include "float_vector.h"
#include "multilabel_margin_row.h"

namespace fastheads {
namespace {

template <class F>
struct Margin {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  using V = Vector<sum_t>;
  using Sum = Float<sum_t>;

  static constexpr int64_t kTile = 1024;  // logits that stay in the first-level cache
  static constexpr int kGroup = 4;        // targets that are compared with a vector at a time
  static_assert(kTile % kLanes<sum_t> == 0);

  const MarginRow& r;
  const raw_t* const logits = static_cast<const raw_t*>(r.logits);
  raw_t* const grad = static_cast<raw_t*>(r.grad);
  double* const margins = r.scratch;                 // 1 - x_j
  double* const counts = r.scratch + r.num_targets;  // of hinges above 0
  int64_t next = 0;                                  // the first target that is not passed yet
  alignas(64) sum_t others[kTile];
  alignas(64) sum_t active[kTile];  // how many hinges of a logit are above 0

  // The logits begin on, lowered beyond any margin where they are none of the others.
  int64_t fill(int64_t begin, int64_t size) {
    constexpr sum_t kLowest = -std::numeric_limits<sum_t>::infinity();
    for_vectors<sum_t>(size, [&](int64_t i, auto part) {
      Sum::store(others + i, F::load(logits + begin + i, part), All{});
    });
    const int64_t whole = (size + kLanes<sum_t> - 1) / kLanes<sum_t> * kLanes<sum_t>;
    for (int64_t i = size; i < whole; ++i) others[i] = kLowest;
    for (; next < r.num_targets && r.targets[next] < begin + size; ++next) {
      others[r.targets[next] - begin] = kLowest;
    }
    return whole;
  }

  // The loss of a tile against targets first to first + kCount.
  template <bool kGrad, int kCount>
  double compare(int64_t first, int64_t whole) {
    V sums[kCount] = {}, above[kCount] = {}, margin[kCount];
    for (int k = 0; k < kCount; ++k) margin[k] = V{} + static_cast<sum_t>(margins[first + k]);
    for (int64_t i = 0; i < whole; i += kLanes<sum_t>) {
      const V x = Sum::load(others + i, All{}), one = V{} + 1;
      V count = {};
      for (int k = 0; k < kCount; ++k) {
        const V hinge = margin[k] + x;
        sums[k] += hinge <= 0 ? V{} : hinge;  // NaN stays
        if constexpr (kGrad) {
          const V is_above = hinge > 0 ? one : V{};
          above[k] += is_above;
          count += is_above;
        }
      }
      if constexpr (kGrad) {
        Sum::store(active + i, first == 0 ? count : count + Sum::load(active + i, All{}), All{});
      }
    }
    double loss = 0;
    for (int k = 0; k < kCount; ++k) {
      loss += sum_lanes<sum_t>(sums[k]);
      if constexpr (kGrad) counts[first + k] += sum_lanes<sum_t>(above[k]);
    }
    return loss;
  }

  template <bool kGrad>
  double compare_all(int64_t whole) {
    double loss = 0;
    for (int64_t first = 0; first < r.num_targets; first += kGroup) {
      const int64_t count = r.num_targets - first;
      loss += count == 1   ? compare<kGrad, 1>(first, whole)
              : count == 2 ? compare<kGrad, 2>(first, whole)
              : count == 3 ? compare<kGrad, 3>(first, whole)
                           : compare<kGrad, kGroup>(first, whole);
    }
    return loss;
  }

  void write_others(int64_t begin, int64_t size) {
    const auto factor = static_cast<sum_t>(r.factor);
    for_vectors<sum_t>(size, [&](int64_t i, auto part) {
      const V g = factor * Sum::load(active + i, part);
      if constexpr (std::is_same_v<F, Float32> && std::is_same_v<decltype(part), All>) {
        if (r.stream) return write_past_caches(grad + begin + i, g);
      }
      F::store(grad + begin + i, g, part);
    });
  }

  void write_targets() {
    const auto factor = static_cast<sum_t>(r.factor);
    for (int64_t t = 0; t < r.num_targets; ++t) {
      const V g = V{} - factor * static_cast<sum_t>(counts[t]);
      F::store(grad + r.targets[t], g, Some{1});
    }
  }

  double run() {
    for (int64_t t = 0; t < r.num_targets; ++t) {
      margins[t] = sum_t(1) - F::load(logits + r.targets[t], Some{1})[0];
      counts[t] = 0;
    }
    if (r.num_targets == 0) std::memset(active, 0, sizeof(active));
    double loss = 0;
    for (int64_t begin = 0; begin < r.size; begin += kTile) {
      const int64_t size = r.size - begin < kTile ? r.size - begin : kTile;
      const int64_t whole = r.num_targets > 0 ? fill(begin, size) : 0;
      if (grad == nullptr) {
        loss += compare_all<false>(whole);
      } else {
        loss += compare_all<true>(whole);
        write_others(begin, size);
      }
    }
    if (grad != nullptr) {
      if (r.stream) finish_writes();
      write_targets();
    }
    return loss;
  }
};

double margin_of(FloatFormat format, const MarginRow& row) {
  double loss = 0;
  for_format(format, [&](auto f) { loss = Margin<decltype(f)>{row}.run(); });
  return loss;
}

}  // namespace
}  // namespace fastheads
