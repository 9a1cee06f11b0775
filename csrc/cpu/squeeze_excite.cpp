// squeeze_excite on the CPU: a group of samples is pooled, gated and scaled while it is in the
// cache.
#include <cmath>
#include <tuple>

#include "squeeze_excite_tasks.h"

namespace fastheads {
namespace {

constexpr int64_t kStreamBytes = int64_t(1) << 21;  // of a new y, more than a second-level cache

Activation activation_of(Inner inner) {
  switch (inner) {
    case Inner::kRelu:
      return Activation::kRelu;
    case Inner::kSilu:
      return Activation::kSilu;
    case Inner::kHardSwish:
      return Activation::kHardSwish;
    default:
      return Activation::kNone;
  }
}

Activation activation_of(Gate gate) {
  return gate == Gate::kSigmoid ? Activation::kSigmoid : Activation::kHardSigmoid;
}

// Whether y does better not to pass through the caches, and has whole vectors, aligned, throughout.
bool streams(const MapShape& map, const Tensor& x, const Tensor& y) {
  constexpr int64_t kLine = 64, kFloats = kLine / sizeof(float);
  if (x.const_data_ptr() == y.const_data_ptr() ||
      y.numel() * int64_t(y.element_size()) < kStreamBytes) {
    return false;
  }
  const bool whole = map.channels_last
                         ? map.channels % kFloats == 0
                         : map.channels * map.pixels % kFloats == 0 && map.pixels >= kFloats;
  return whole && reinterpret_cast<uintptr_t>(y.const_data_ptr()) % kLine == 0;
}

template <typename sum_t>
void forward(const SqueezeExciteShape& shape, const Tensor& x, const Tensor& weight1,
             const std::optional<Tensor>& bias1, const Tensor& weight2,
             const std::optional<Tensor>& bias2, const std::optional<Tensor>& residual,
             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, Inner inner,
             Gate gate, bool relu, Tensor& y, Tensor& mean, Tensor& s) {
  const auto kernels = kernels_for<sum_t>(x, weight1);
  const Linear<sum_t> first{weight1.const_data_ptr(), pointer<sum_t>(bias1), shape.hidden,
                            shape.channels, activation_of(inner)};
  const Linear<sum_t> second{weight2.const_data_ptr(), pointer<sum_t>(bias2), shape.channels,
                             shape.hidden, activation_of(gate)};
  sum_t* means = mean.mutable_data_ptr<sum_t>();
  sum_t* gates = s.mutable_data_ptr<sum_t>();
  const MapShape map = map_shape(shape);
  const auto sum_type = mean.scalar_type();
  const Tensor sums = empty<3>({shape.samples, map.blocks, shape.channels}, sum_type);
  const ExciteForward<sum_t> maps{map,
                                  x.const_data_ptr(),
                                  pointer(residual),
                                  y.mutable_data_ptr(),
                                  pointer<sum_t>(scale),
                                  pointer<sum_t>(shift),
                                  gates,
                                  sums.mutable_data_ptr<sum_t>(),
                                  relu,
                                  streams(map, x, y)};
  const Tensor hidden_ = empty<2>({shape.samples, shape.hidden}, sum_type);
  sum_t* hidden = hidden_.mutable_data_ptr<sum_t>();
  const int64_t sample_bytes = shape.channels * shape.pixels * x.element_size();
  run(map, shape.samples, shape.hidden, sample_bytes,
      Steps{
          [&](const Tile& tile) { kernels.pool(maps, tile); },
          [&](Range samples) {
            add_blocks(map, samples, maps.sums, means);
            for (int64_t n = samples.begin; n < samples.end; ++n) {
              for (int64_t c = 0; c < shape.channels; ++c) {
                sum_t& value = means[n * shape.channels + c];
                value /= shape.pixels;
                if (maps.scale != nullptr) value *= maps.scale[c];
                if (maps.shift != nullptr) value += maps.shift[c];
              }
            }
          },
          [&](Range samples, Range units) { kernels.linear(first, samples, units, means, hidden); },
          [&](Range samples, Range channels) {
            kernels.linear(second, samples, channels, hidden, gates);
          },
          [&](const Tile& tile) { kernels.excite(maps, tile); }});
}

// Writes y over x if in_place, which has been checked.
std::tuple<Tensor, Tensor, Tensor> excited(
    const Tensor& x_, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2,
    const std::optional<Tensor>& residual_, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate, bool relu, bool in_place) {
  const auto shape =
      check_squeeze_excite(x_, weight1, bias1, weight2, bias2, scale, shift, inner, gate);
  if (residual_) check_squeeze_excite_map("residual", *residual_, x_);
  const Tensor x = dense(x_);
  std::optional<Tensor> residual;
  if (residual_) residual = in_layout_of(x, *residual_);
  const auto sum_type = sum_dtype(x);
  Tensor y = in_place ? x : dense_like(x);
  Tensor mean = empty<2>({shape.samples, shape.channels}, sum_type), s = dense_like(mean);
  const auto call = sum_type == ScalarType::Double ? forward<double> : forward<float>;
  call(shape, x, as_contiguous(weight1), as_sums(bias1, x), as_contiguous(weight2),
       as_sums(bias2, x), residual, as_sums(scale, x), as_sums(shift, x), Inner(inner), Gate(gate),
       relu, y, mean, s);
  return {y, mean, s};
}

std::tuple<Tensor, Tensor, Tensor> squeeze_excite(
    const Tensor& x, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2,
    const std::optional<Tensor>& residual, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate, bool relu) {
  return excited(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu,
                 false);
}

// Scale and shift of a batch norm in inference.
template <typename sum_t>
void fold_norm(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
               const Tensor& mean, const Tensor& var, double eps, Tensor& scale, Tensor& shift) {
  const sum_t *w = pointer<sum_t>(weight), *b = pointer<sum_t>(bias);
  const sum_t *m = mean.const_data_ptr<sum_t>(), *v = var.const_data_ptr<sum_t>();
  sum_t *to_scale = scale.mutable_data_ptr<sum_t>(), *to_shift = shift.mutable_data_ptr<sum_t>();
  for (int64_t c = 0; c < scale.numel(); ++c) {
    to_scale[c] = (w != nullptr ? w[c] : 1) / std::sqrt(v[c] + sum_t(eps));
    to_shift[c] = (b != nullptr ? b[c] : 0) - m[c] * to_scale[c];
  }
}

void squeeze_excite_(Tensor x, const Tensor& weight1, const std::optional<Tensor>& bias1,
                     const Tensor& weight2, const std::optional<Tensor>& bias2,
                     const std::optional<Tensor>& residual, const std::optional<Tensor>& scale_,
                     const std::optional<Tensor>& shift_, int64_t inner, int64_t gate, bool relu,
                     const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
                     double eps) {
  check_squeeze_excite_in_place(x, residual);
  check_squeeze_excite_norm(x, scale_, shift_, mean, var);
  std::optional<Tensor> scale = scale_, shift = shift_;
  if (var) {
    const auto sums = sum_dtype(x);
    scale = empty<1>({x.size(1)}, sums);
    shift = empty<1>({x.size(1)}, sums);
    const auto fold = sums == ScalarType::Double ? fold_norm<double> : fold_norm<float>;
    fold(as_sums(scale_, x), as_sums(shift_, x), *as_sums(mean, x), *as_sums(var, x), eps, *scale,
         *shift);
  }
  excited(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu, true);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("squeeze_excite", TORCH_BOX(&squeeze_excite));
  m.impl("squeeze_excite_", TORCH_BOX(&squeeze_excite_));
}

}  // namespace fastheads
