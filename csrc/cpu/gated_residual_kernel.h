// gated_residual, forward, backward and in place, over parts of samples. Included by one file an
// instruction set; everything is local to it.
#pragma once

#include "gated_residual_rows.h"
#include "means.h"

namespace fastheads {
namespace {

template <typename V>
V relu_of(V values) {
  return values < 0 ? V{} : values;  // NaN stays
}

template <class F, bool kRelu>
void forward_of(const GatedPart& p) {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  const auto* x = static_cast<const raw_t*>(p.x);
  const auto* f = static_cast<const raw_t*>(p.f);
  auto* y = static_cast<raw_t*>(p.y);
  const auto gate = static_cast<typename F::sum_t>(p.gate);
  const auto activated = [](auto values) { return kRelu ? relu_of(values) : values; };
  if (gate == 0) {
    for_vectors<sum_t>(p.size, [&](int64_t i, auto part) {
      F::store(y + i, activated(F::load(x + i, part)), part);
    });
  } else {
    for_vectors<sum_t>(p.size, [&](int64_t i, auto part) {
      F::store(y + i, activated(F::load(x + i, part) + gate * F::load(f + i, part)), part);
    });
  }
}

void forward(FloatFormat format, const GatedPart& p) {
  for_format(format, [&](auto f) {
    using F = decltype(f);
    p.relu ? forward_of<F, true>(p) : forward_of<F, false>(p);
  });
}

template <class F, bool kRelu, bool kDot>
double backward_of(const GatedBackwardPart& p) {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  const auto* grad = reinterpret_cast<const raw_t*>(p.grad);
  const auto* y = reinterpret_cast<const raw_t*>(p.y);
  const auto* f = reinterpret_cast<const raw_t*>(p.f);
  auto* grad_x = reinterpret_cast<raw_t*>(p.grad_x);
  auto* grad_f = reinterpret_cast<raw_t*>(p.grad_f);
  const auto gate = static_cast<typename F::sum_t>(p.gate);
  Vector<sum_t> sum = {};
  for_vectors<sum_t>(p.size, [&](int64_t i, auto part) {
    Vector<sum_t> g = F::load(grad + i, part);
    if constexpr (kRelu) {
      g = F::load(y + i, part) <= 0 ? Vector<sum_t>{} : g;  // NaN in y passes g on
      F::store(grad_x + i, g, part);
    }
    F::store(grad_f + i, gate == 0 ? Vector<sum_t>{} : gate * g, part);
    if constexpr (kDot) sum += g * F::load(f + i, part);
  });
  return sum_lanes<sum_t>(sum);
}

// In short runs that are summed in double, because long chains of additions round too often.
template <class F, bool kRelu, bool kDot>
double backward_in_runs(const GatedBackwardPart& p) {
  constexpr int64_t kRun = 512;
  const auto at = [](auto* from, int64_t i) {
    return from == nullptr ? from : from + i * static_cast<int64_t>(sizeof(typename F::raw_t));
  };
  double dot = 0;
  for (int64_t i = 0; i < p.size; i += kRun) {
    dot += backward_of<F, kRelu, kDot>({at(p.grad, i), at(p.y, i), at(p.f, i), at(p.grad_x, i),
                                        at(p.grad_f, i), p.size - i < kRun ? p.size - i : kRun,
                                        p.gate});
  }
  return dot;
}

double backward(FloatFormat format, const GatedBackwardPart& p) {
  double dot = 0;
  for_format(format, [&](auto f) {
    using F = decltype(f);
    dot = p.y != nullptr   ? p.f != nullptr ? backward_in_runs<F, true, true>(p)
                                            : backward_in_runs<F, true, false>(p)
          : p.f != nullptr ? backward_in_runs<F, false, true>(p)
                           : backward_in_runs<F, false, false>(p);
  });
  return dot;
}

template <class F, bool kRelu>
void scatter_of(const ScatterPart& p) {
  auto* x = static_cast<typename F::raw_t*>(p.x);
  const auto* f = static_cast<const typename F::raw_t*>(p.f);
  const auto value = [x, f](int64_t i, auto part) {  // writes x + f, and hands it on to be summed
    const auto sum = F::load(x + i, part) + F::load(f + i, part);
    const auto y = kRelu ? relu_of(sum) : sum;
    F::store(x + i, y, part);
    return y;
  };
  auto* means = static_cast<typename F::sum_t*>(p.means);
  if (means == nullptr) {
    for_vectors<typename F::sum_t>(p.end - p.begin,
                                   [&](int64_t i, auto part) { value(p.begin + i, part); });
  } else if (p.channels_last) {
    column_means<F>(value, p.channels, p.pixels, p.begin, p.end, means);
  } else {
    plane_means<F>(value, p.pixels, p.begin, p.end, means);
  }
}

void scatter(FloatFormat format, const ScatterPart& p) {
  for_format(format, [&](auto f) {
    using F = decltype(f);
    p.relu ? scatter_of<F, true>(p) : scatter_of<F, false>(p);
  });
}

}  // namespace
}  // namespace fastheads
