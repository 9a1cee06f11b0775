// squeeze_excite on the CPU, backward: the maps as forward, then the gradients of the weights.
#include <array>
#include <cmath>
#include <tuple>

#include "squeeze_excite_tasks.h"

namespace fastheads {
namespace {

// From the gradient after the gate to the one before it, in place.
template <typename sum_t>
void gate_backward(Gate gate, int64_t count, const sum_t* s, sum_t* grad) {
  for (int64_t i = 0; i < count; ++i) {
    const sum_t inside = s[i] > 0 && s[i] < 1 ? sum_t(1) / 6 : sum_t(0);
    grad[i] *= gate == Gate::kSigmoid ? s[i] * (1 - s[i]) : inside;
  }
}

// From z before the inner activation, in hidden, and the gradient after it, in grad.
template <typename sum_t>
void inner_backward(Inner inner, int64_t count, sum_t* hidden, sum_t* grad) {
  for (int64_t i = 0; inner == Inner::kRelu && i < count; ++i) {
    if (hidden[i] <= 0) hidden[i] = grad[i] = 0;
  }
  for (int64_t i = 0; inner == Inner::kSilu && i < count; ++i) {
    const sum_t z = hidden[i], sigmoid = 1 / (1 + std::exp(-z));
    hidden[i] = z * sigmoid;
    grad[i] *= sigmoid * (1 + z * (1 - sigmoid));
  }
  for (int64_t i = 0; inner == Inner::kHardSwish && i < count; ++i) {
    const sum_t z = hidden[i], gate = std::clamp<sum_t>(z + 3, 0, 6) / 6;
    hidden[i] = z * gate;
    grad[i] *= gate > 0 && gate < 1 ? z / 3 + sum_t(0.5) : gate;
  }
}

// Contiguous, in the shape of a weight or bias; nothing if there is none.
Tensor gradient_of(const std::optional<Tensor>& parameter, ScalarType dtype) {
  if (!parameter) return empty<1>({0}, dtype);
  std::array<int64_t, 4> strides{};
  int64_t stride = 1;
  for (int64_t d = parameter->dim(); d-- > 0; stride *= std::max<int64_t>(1, parameter->size(d))) {
    strides[d] = stride;
  }
  return empty_strided(parameter->dim(), parameter->sizes().data(), strides.data(), dtype);
}

Tensor as_type_of(const std::optional<Tensor>& parameter, const Tensor& gradient) {
  if (!parameter || parameter->scalar_type() == gradient.scalar_type()) return gradient;
  return torch::stable::to(gradient, parameter->scalar_type());
}

// The gradients of a layer's parameters, by those of its outputs and by its inputs. Each number is
// summed over the samples by one thread, in one order.
template <typename sum_t>
void add_samples(const ExciteKernels<sum_t>& kernels, const Linear<sum_t>& layer, int64_t samples,
                 const sum_t* grad, const sum_t* in, Tensor& grad_weight, Tensor& grad_bias) {
  const Product<sum_t> weight{
      in, samples, layer.inputs, grad, 1, layer.outputs, grad_weight.mutable_data_ptr<sum_t>()};
  parallel_for(0, layer.outputs, 1 + kGrainMacs / (samples * layer.inputs + 1),
               [&](int64_t begin, int64_t end) {
                 kernels.sum_product(weight, {begin, end}, {0, layer.inputs});
               });
  if (grad_bias.numel() == 0) return;
  const sum_t one = 1;
  const Product<sum_t> bias{
      grad, samples, layer.outputs, &one, 0, 0, grad_bias.mutable_data_ptr<sum_t>()};
  kernels.sum_product(bias, {0, 1}, {0, layer.outputs});
}

struct Gradients {
  Tensor x, residual, weight1, bias1, weight2, bias2;  // empty where there is no such input
};

template <typename sum_t>
void backward(const SqueezeExciteShape& shape, const Tensor& grad, const Tensor& x,
              const std::optional<Tensor>& y, const Tensor& mean, const Tensor& s,
              const Tensor& weight1, const std::optional<Tensor>& bias1, const Tensor& weight2,
              const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, Inner inner,
              Gate gate, Gradients& of) {
  const auto kernels = kernels_for<sum_t>(x, weight1);
  const Linear<sum_t> first{weight1.const_data_ptr(), pointer<sum_t>(bias1), shape.hidden,
                            shape.channels, Activation::kNone};
  const Linear<sum_t> second{weight2.const_data_ptr(), nullptr, shape.channels, shape.hidden,
                             Activation::kNone};
  const MapShape map = map_shape(shape);
  const auto sum_type = mean.scalar_type();
  const Tensor sums = empty<3>({shape.samples, map.blocks, shape.channels}, sum_type);
  const Tensor of_channels = empty<3>({2, shape.samples, shape.channels}, sum_type);
  const Tensor of_units = empty<3>({2, shape.samples, shape.hidden}, sum_type);
  sum_t* grad_logit = of_channels.mutable_data_ptr<sum_t>();
  sum_t* grad_mean = grad_logit + shape.samples * shape.channels;
  sum_t* hidden = of_units.mutable_data_ptr<sum_t>();
  sum_t* grad_hidden = hidden + shape.samples * shape.hidden;
  const sum_t* means = mean.const_data_ptr<sum_t>();
  const bool stores_residual = of.residual.dim() == 4;
  const ExciteBackward<sum_t> maps{map,
                                   grad.const_data_ptr(),
                                   x.const_data_ptr(),
                                   pointer(y),
                                   of.x.mutable_data_ptr(),
                                   stores_residual ? of.residual.mutable_data_ptr() : nullptr,
                                   pointer<sum_t>(scale),
                                   pointer<sum_t>(shift),
                                   s.const_data_ptr<sum_t>(),
                                   grad_mean,
                                   sums.mutable_data_ptr<sum_t>()};
  const Product<sum_t> to_hidden{weight2.const_data_ptr(),
                                 shape.channels,
                                 shape.hidden,
                                 grad_logit,
                                 shape.channels,
                                 1,
                                 grad_hidden};
  const Product<sum_t> to_mean{weight1.const_data_ptr(),
                               shape.hidden,
                               shape.channels,
                               grad_hidden,
                               shape.hidden,
                               1,
                               grad_mean};
  const int64_t sample_bytes = 3 * shape.channels * shape.pixels * x.element_size();
  run(map, shape.samples, shape.hidden, sample_bytes,
      Steps{[&](const Tile& tile) { kernels.pool_backward(maps, tile); },
            [&](Range samples) {
              add_blocks(map, samples, maps.sums, grad_logit);
              const int64_t i = samples.begin * shape.channels;
              const int64_t count = (samples.end - samples.begin) * shape.channels;
              gate_backward(gate, count, maps.s + i, grad_logit + i);
            },
            [&](Range samples, Range units) {
              kernels.linear(first, samples, units, means, hidden);
              kernels.weight_product(to_hidden, samples, units);
              for (int64_t n = samples.begin; n < samples.end; ++n) {
                const int64_t i = n * shape.hidden + units.begin;
                inner_backward(inner, units.end - units.begin, hidden + i, grad_hidden + i);
              }
            },
            [&](Range samples, Range channels) {
              kernels.weight_product(to_mean, samples, channels);
            },
            [&](const Tile& tile) { kernels.excite_backward(maps, tile); }});
  add_samples(kernels, first, shape.samples, grad_hidden, means, of.weight1, of.bias1);
  add_samples(kernels, second, shape.samples, grad_logit, hidden, of.weight2, of.bias2);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward(
    const Tensor& grad, const Tensor& x_, const std::optional<Tensor>& y_, const Tensor& mean,
    const Tensor& s, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, bool has_residual, int64_t inner, int64_t gate) {
  const auto shape = check_squeeze_excite_backward(grad, x_, y_, mean, s, weight1, bias1, weight2,
                                                   bias2, scale, shift, inner, gate);
  const Tensor x = dense(x_);
  std::optional<Tensor> y;
  if (y_) y = in_layout_of(x, *y_);
  const auto sums = sum_dtype(x);
  Gradients of{dense_like(x),
               has_residual ? dense_like(x) : empty<1>({0}, x.scalar_type()),
               gradient_of(weight1, sums),
               gradient_of(bias1, sums),
               gradient_of(weight2, sums),
               gradient_of(bias2, sums)};
  const auto call = sums == ScalarType::Double ? backward<double> : backward<float>;
  call(shape, in_layout_of(x, grad), x, y, as_contiguous(mean), as_contiguous(s),
       as_contiguous(weight1), as_sums(bias1, x), as_contiguous(weight2), as_sums(scale, x),
       as_sums(shift, x), Inner(inner), Gate(gate), of);
  return {of.x,
          of.residual,
          as_type_of(weight1, of.weight1),
          as_type_of(bias1, of.bias1),
          as_type_of(weight2, of.weight2),
          as_type_of(bias2, of.bias2)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("squeeze_excite_backward", TORCH_BOX(&squeeze_excite_backward));
}

}  // namespace fastheads
