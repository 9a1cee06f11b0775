// The gate: pooling, and the two layers a sample at a time. Included by one file an instruction
// set; everything is local to it.
#pragma once

#include "gate_rows.h"
#include "means.h"

namespace fastheads {
namespace {

void pool(FloatFormat format, const PoolPart& p) {
  for_format(format, [&](auto f) {
    using F = decltype(f);
    auto* means = static_cast<typename F::sum_t*>(p.means);
    const auto* x = static_cast<const typename F::raw_t*>(p.x);
    const auto value = [x](int64_t i, auto part) { return F::load(x + i, part); };
    if (p.channels_last) {
      column_means<F>(value, p.channels, p.pixels, p.begin, p.end, means);
    } else {
      plane_means<F>(value, p.pixels, p.begin, p.end, means);
    }
  });
}

// Dot products of kRows rows of a matrix, `stride` apart, with one vector.
template <class F, int kRows>
void dot_rows(const typename F::raw_t* rows, int64_t stride, const typename F::sum_t* x,
              int64_t size, typename F::sum_t* dots) {
  using sum_t = typename F::sum_t;
  Vector<sum_t> sums[kRows] = {};
  for_vectors<sum_t>(size, [&](int64_t i, auto part) {
    const auto factor = Float<sum_t>::load(x + i, part);
    for (int r = 0; r < kRows; ++r) sums[r] += F::load(rows + r * stride + i, part) * factor;
  });
  for (int r = 0; r < kRows; ++r) dots[r] = sum_lanes<sum_t>(sums[r]);
}

template <class F>
typename F::sum_t load_one(const typename F::raw_t* from) {
  return F::load(from, Some{1})[0];
}

template <class F>
void layers_of_sample(const GateLayers& g, int64_t n) {
  using sum_t = typename F::sum_t;
  using raw_t = typename F::raw_t;
  const auto* weight1 = static_cast<const raw_t*>(g.weight1);
  const auto* scale = static_cast<const sum_t*>(g.units);
  const sum_t* shift = scale + g.hidden;
  const auto* weight2 = static_cast<const raw_t*>(g.weight2);
  const sum_t* mean = static_cast<const sum_t*>(g.means) + n * g.channels;
  sum_t beta[2] = {};
  for (int64_t j = 0; j < g.hidden; j += 4) {
    sum_t dots[4];
    const int rows = g.hidden - j < 4 ? static_cast<int>(g.hidden - j) : 4;
    if (rows == 4) {
      dot_rows<F, 4>(weight1 + j * g.channels, g.channels, mean, g.channels, dots);
    } else {
      for (int r = 0; r < rows; ++r) {
        dot_rows<F, 1>(weight1 + (j + r) * g.channels, 0, mean, g.channels, dots + r);
      }
    }
    for (int r = 0; r < rows; ++r) {
      const sum_t sum = dots[r] * scale[j + r] + shift[j + r];
      const sum_t hidden = sum < 0 ? sum_t(0) : sum;  // NaN stays
      beta[0] += load_one<F>(weight2 + j + r) * hidden;
      beta[1] += load_one<F>(weight2 + g.hidden + j + r) * hidden;
    }
  }
  sum_t* to = static_cast<sum_t*>(g.beta) + 2 * n;
  to[0] = beta[0];
  to[1] = beta[1];
}

void layers(FloatFormat format, const GateLayers& g, int64_t begin, int64_t end) {
  for_format(format, [&](auto f) {
    for (int64_t n = begin; n < end; ++n) layers_of_sample<decltype(f)>(g, n);
  });
}

}  // namespace
}  // namespace fastheads
