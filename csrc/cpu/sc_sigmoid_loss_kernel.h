// sc_sigmoid_loss of one row and group. Included by one file an instruction set; everything is
// local to it.
#pragma once

#include <limits>

#include "float_vector.h"
#include "sc_sigmoid_loss_segment.h"

namespace fastheads {
namespace {

// log(1 + x) for x from 0 to 2^32, within 3 units in the last place, also where 1 + x rounds.
inline Vector<float> log1p(Vector<float> x) {
  using V = Vector<float>;
  constexpr uint32_t kRoot = 0x3f3504f3;  // sqrt(1/2): mantissas lie from here to sqrt(2)
  const V y = 1.0f + x;
  const Word bits = (Word)y - kRoot;
  const V exponent = __builtin_convertvector((Vector<int32_t>)(bits >> 23), V);
  const V r = (V)((bits & 0x7fffff) + kRoot) - 1.0f, rr = r * r;
  V p = V{} + 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const V tail = p * r * rr - exponent * 2.12194440e-4f - 0.5f * rr;
  const V lost = (x - (y - 1.0f)) / y;  // what the sum 1 + x rounded off
  return exponent * 0.693359375f + (r + (tail + lost));
}

inline Vector<double> log1p(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::log1p(x[i]);
  return x;
}

template <class F>
struct Segment {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  using V = Vector<sum_t>;
  using Sum = Float<sum_t>;

  // w_j sigmoid(z_j) is kept from the pass that sums to the pass that writes; longer segments
  // compute it twice.
  static constexpr int64_t kTile = (128 << 10) / sizeof(sum_t);
  // So many factors 1 + e^-|z| share a logarithm: their product is at most 2^16.
  static constexpr int64_t kRun = 16 * kLanes<sum_t>;

  const SigmoidSegment& s;
  raw_t* const logits = static_cast<raw_t*>(s.logits);
  const sum_t* const values = static_cast<const sum_t*>(s.values);
  const sum_t* const gammas = static_cast<const sum_t*>(s.gamma);
  const sum_t* const bias = static_cast<const sum_t*>(s.label_bias);
  const sum_t* const weights = static_cast<const sum_t*>(s.label_weights);
  const bool per_label = s.gamma_per_label && gammas != nullptr;
  const bool normalize = s.normalize;
  const sum_t gamma = gammas == nullptr || per_label ? sum_t(1) : *gammas;
  sum_t length = 1, inverse = 1;  // the norm, and 1 / norm
  double loss = 0, dot = 0;

  // l / norm, rounded as a division would be, so that a group of one label has no gradient.
  template <class Part>
  V normalized(int64_t j, Part part) const {
    const V l = F::load(logits + j, part);
    if (!normalize) return l;
    const V x = l * inverse;
    return x + (l - x * length) * inverse;
  }

  // A factor of a gradient that is 0, but for its rounding, where z is -inf.
  static V finite(V x) { return x < -std::numeric_limits<sum_t>::max() ? V{} : x; }

  double norm() const {
    double sum = 0;
    for (int64_t begin = 0; begin < s.size; begin += kRun) {
      V squares = {};
      const int64_t size = s.size - begin < kRun ? s.size - begin : kRun;
      for_vectors<sum_t>(size, [&](int64_t i, auto part) {
        const V l = F::load(logits + begin + i, part);
        squares += l * l;
      });
      sum += sum_lanes<sum_t>(squares);
    }
    if (sum > 1e-28 && sum < 1e38) return __builtin_sqrt(sum);
    sum = 0;  // a square may have left the range of float
    for (int64_t i = 0; i < s.size; ++i) {
      const double l = F::load(logits + i, Some{1})[0];
      sum += l * l;
    }
    return __builtin_sqrt(sum);
  }

  // held[i] = w_j sigmoid(z_j) of the labels j = begin + i; adds to loss and dot if they are asked.
  template <bool kSums>
  void fill(int64_t begin, int64_t size, sum_t* held) {
    for (int64_t run = 0; run < size; run += kRun) {
      V factors = {}, entropy = {}, dots = {};  // factors: their product less 1
      const int64_t length = size - run < kRun ? size - run : kRun;
      for_vectors<sum_t>(length, [&](int64_t i, auto part) {
        const int64_t j = begin + run + i;
        const V x = normalized(j, part);
        const V scaled = per_label ? x * Sum::load(gammas + j, part) : x * gamma;
        const V z = bias != nullptr ? scaled + Sum::load(bias + j, part) : scaled;
        V e = exp(z < 0 ? z : -z);
        V positive = z < 0 ? V{} : z;
        if constexpr (std::is_same_v<decltype(part), Some>) {  // what is not meant adds nothing
          for (int64_t lane = part.count; lane < kLanes<sum_t>; ++lane)
            e[lane] = positive[lane] = 0;
        }
        const V reciprocal = 1 / (1 + e);
        V g = z < 0 ? e * reciprocal : reciprocal;
        if (weights != nullptr) {
          const V w = Sum::load(weights + j, part);
          g *= w;
          if constexpr (kSums) {
            if (s.with_loss) entropy += w * (positive + log1p(e));
          }
        } else if constexpr (kSums) {
          entropy += positive;
          factors += e + factors * e;
        }
        Sum::store(held + run + i, g, part);
        if constexpr (kSums) dots += g * finite(per_label ? scaled : x);
      });
      if constexpr (kSums) {
        if (s.with_loss) {
          loss += sum_lanes<sum_t>(weights == nullptr ? entropy + log1p(factors) : entropy);
        }
        dot += sum_lanes<sum_t>(dots);
      }
    }
    subtract_targets<kSums>(begin, size, held);
  }

  // held[i] = w_j (sigmoid(z_j) - y_j) where there are targets.
  template <bool kSums>
  void subtract_targets(int64_t begin, int64_t size, sum_t* held) {
    for (int64_t t = 0; t < s.num_targets; ++t) {
      const int64_t j = s.targets[t] - s.first_label;
      if (j < begin || j >= begin + size) continue;
      const sum_t x = normalized(j, Some{1})[0];
      const sum_t scaled = x * (per_label ? gammas[j] : gamma);
      const sum_t wy =
          (weights == nullptr ? sum_t(1) : weights[j]) * (values == nullptr ? sum_t(1) : values[t]);
      held[j - begin] -= wy;
      if constexpr (kSums) {
        loss -= double(wy) * (bias == nullptr ? scaled : scaled + bias[j]);
        dot -= double(wy) * (per_label ? scaled : x);
      }
    }
  }

  // Writes the gradients, held being what fill has left.
  void write(int64_t begin, int64_t size, const sum_t* held) {
    const auto scale = static_cast<sum_t>(s.scale);
    const sum_t along = scale * inverse * gamma;
    const auto radial = static_cast<sum_t>(dot);
    auto* gamma_columns = static_cast<sum_t*>(s.gamma_columns);
    auto* bias_columns = static_cast<sum_t*>(s.bias_columns);
    for_vectors<sum_t>(size, [&](int64_t i, auto part) {
      const int64_t j = begin + i;
      const V g = Sum::load(held + i, part), x = normalized(j, part);
      const V scaled = per_label ? g * Sum::load(gammas + j, part) : g;
      F::store(logits + j, along * (normalize ? scaled - radial * x : scaled), part);
      const auto add = [&](sum_t* columns, V gradient) {
        if (columns == nullptr) return;
        Sum::store(columns + j, Sum::load(columns + j, part) + scale * gradient, part);
      };
      add(gamma_columns, g * finite(x));
      add(bias_columns, g);
    });
  }

  SigmoidSums run() {
    if (normalize) {
      const double exact = norm();
      constexpr double kSmallest = sizeof(sum_t) == 8 ? 2.2250738585072014e-308 : 1.17549435e-38;
      length = static_cast<sum_t>(exact);
      inverse = exact < kSmallest ? 0 : static_cast<sum_t>(1 / exact);
    }
    alignas(64) sum_t held[kTile];
    const auto for_tiles = [&](auto body) {
      for (int64_t begin = 0; begin < s.size; begin += kTile) {
        body(begin, s.size - begin < kTile ? s.size - begin : kTile);
      }
    };
    for_tiles([&](int64_t begin, int64_t size) { fill<true>(begin, size, held); });
    if (s.with_grad) {
      for_tiles([&](int64_t begin, int64_t size) {
        if (s.size > kTile) fill<false>(begin, size, held);
        write(begin, size, held);
      });
    }
    return {s.with_loss ? loss : 0, s.scale * dot};
  }
};

SigmoidSums segment_of(FloatFormat format, const SigmoidSegment& segment) {
  SigmoidSums sums = {};
  for_format(format, [&](auto f) { sums = Segment<decltype(f)>{segment}.run(); });
  return sums;
}

}  // namespace
}  // namespace fastheads
