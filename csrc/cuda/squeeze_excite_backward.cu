// squeeze_excite on CUDA, backward.
#include <array>
#include <tuple>
#include <utility>

#include "squeeze_excite_launch.cuh"

namespace fastheads {
namespace {

// What is pooled: g u, where g is 0 where y <= 0, else grad, and u = scale x + shift. Writes g if
// asked to.
template <typename scalar_t, int V>
struct GradientSource {
  using acc = acc_t<scalar_t>;
  using packed_t = Packed<scalar_t, V>;
  static constexpr int kBatch = 2;
  struct Loaded {
    packed_t grad, y, x;
  };
  const scalar_t *grad, *y, *x;  // y may be null: no mask
  scalar_t* g;                   // may be null
  Parameter<scalar_t> scale, shift;

  __device__ Loaded load(int64_t offset) const {
    Loaded loaded{packed_t::load(grad + offset), {}, packed_t::load_last(x + offset)};
    if (y != nullptr) loaded.y = packed_t::load(y + offset);
    return loaded;
  }
  template <typename ChannelOf>
  __device__ void terms(const Loaded& loaded, int64_t offset, const ChannelOf& channel_of,
                        acc (&out)[V]) const {
    acc masked[V], u[V];
    unpack_masked(loaded.grad, loaded.y, y != nullptr, masked);
    if (g != nullptr) packed_t::pack(masked).store(g + offset);
    loaded.x.unpack(u);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (scale.data != nullptr) u[j] *= scale.at(channel_of(j));
      if (shift.data != nullptr) u[j] += shift.at(channel_of(j));
      out[j] = masked[j] * u[j];
    }
  }
};

// grad_x = scale (s g + grad_mean / P) = a g + b
template <typename scalar_t, int V>
struct BackwardMap {
  using acc = acc_t<scalar_t>;
  using packed_t = Packed<scalar_t, V>;
  struct Loaded {
    packed_t grad, y;
  };
  struct Coefficients {
    acc a, b;
  };
  const scalar_t *grad, *y;  // g itself, and then no y, where it was written
  scalar_t* grad_x;
  const acc *s, *grad_mean;
  Parameter<scalar_t> scale;
  int64_t channels;
  acc pixels;

  __device__ Loaded load(int64_t offset) const {
    Loaded loaded{packed_t::load_last(grad + offset), {}};
    if (y != nullptr) loaded.y = packed_t::load_last(y + offset);
    return loaded;
  }
  __device__ Coefficients coefficients(int64_t n, int64_t c) const {
    const acc by = scale.at(c, 1);
    return {by * s[n * channels + c], by * (grad_mean[n * channels + c] / pixels)};
  }
  template <typename Of>
  __device__ void write(const Loaded& loaded, int64_t offset, const Of& coefficients_of) const {
    acc values[V];
    unpack_masked(loaded.grad, loaded.y, y != nullptr, values);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Coefficients of = coefficients_of(j);
      values[j] = of.a * values[j] + of.b;
    }
    packed_t::pack(values).store_last(grad_x + offset);
  }
};

template <typename scalar_t, int V>
struct Backward {
  using acc = acc_t<scalar_t>;
  enum { kHidden, kPool, kLogit, kGradHidden, kGradMean, kScale, kStages };
  Items items;
  int channels, hidden_size;
  Inner inner;
  Gate gate;
  Parameter<scalar_t> weight1, bias1, weight2;
  GradientSource<scalar_t, V> source;
  BackwardMap<scalar_t, V> map;
  const acc *mean, *s;                                           // [N, C]
  acc *partial, *hidden, *grad_hidden, *grad_logit, *grad_mean;  // [N, slots], [N, R], [N, C]

  static constexpr __host__ __device__ bool of_items(int stage) {
    return stage == kPool || stage == kScale;
  }

  __host__ __device__ int tiles(int stage) const {
    if (stage == kLogit) return kSamples * tiles_of(channels, kThreads);
    if (stage == kHidden || stage == kGradHidden) return tiles_of(hidden_size, kOutputs);
    if (stage == kGradMean) return tiles_of(channels, kOutputs);
    return items.count;
  }

  template <int stage>
  __device__ void run(const Rows& rows, int tile, Shared<acc>& shared) const {
    const int64_t n = rows.first;
    if constexpr (stage == kPool) {
      pool_item<V>(items, source, n, tile, partial, shared);
    } else if constexpr (stage == kScale) {
      scale_item<V>(items, map, n, tile);
    } else if constexpr (stage == kLogit) {
      const int row = tile % kSamples, c = tile / kSamples * kThreads + threadIdx.x;
      if (row >= rows.count || c >= channels) return;
      const int64_t i = (n + row) * channels + c;
      grad_logit[i] = channel_sum<V>(items, partial, n + row, c) * slope(gate, s[i]);
    } else if constexpr (stage == kHidden) {  // again: forward did not keep it
      product_tile<false>(rows, hidden_size, channels, tile, mean, weight1, shared,
                          [&](int64_t n, int64_t r, acc sum) {
                            const acc v = sum + bias1.at(r, 0);
                            hidden[n * hidden_size + r] = activate(inner, v);
                            grad_hidden[n * hidden_size + r] = slope(inner, v);
                          });
    } else if constexpr (stage == kGradHidden) {
      product_tile<true>(rows, hidden_size, channels, tile, grad_logit, weight2, shared,
                         [&](int64_t n, int64_t r, acc sum) {
                           acc& at = grad_hidden[n * hidden_size + r];
                           at = at == 0 ? acc(0) : at * sum;  // 0 even where sum is infinite
                         });
    } else {
      product_tile<true>(rows, channels, hidden_size, tile, grad_hidden, weight1, shared,
                         [&](int64_t n, int64_t c, acc sum) { grad_mean[n * channels + c] = sum; });
    }
  }
};

// grad_x, grad_residual, hidden, grad_hidden, grad_logit
using Stages = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Stages run(const Tensor& grad_, const Tensor& x_, const std::optional<Tensor>& y_,
           const Tensor& mean_, const Tensor& s_, const Tensor& weight1_,
           const std::optional<Tensor>& bias1_, const Tensor& weight2_,
           const std::optional<Tensor>& bias2, const std::optional<Tensor>& scale_,
           const std::optional<Tensor>& shift_, bool has_residual, int64_t inner, int64_t gate,
           std::optional<bool> ticketed) {
  const auto shape = check_squeeze_excite_backward(grad_, x_, y_, mean_, s_, weight1_, bias1_,
                                                   weight2_, bias2, scale_, shift_, inner, gate);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = dense(x_), grad = in_layout_of(x, grad_);
  std::optional<Tensor> y;
  if (y_) y = in_layout_of(x, *y_);
  const Tensor mean = torch::stable::contiguous(mean_), s = torch::stable::contiguous(s_);
  const Contiguous weight1(weight1_), bias1(bias1_), weight2(weight2_);
  const Contiguous scale(scale_), shift(shift_);
  Tensor grad_x = torch::stable::empty_like(x);
  Tensor grad_residual =
      has_residual ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor hidden = torch::stable::new_empty(mean, {shape.samples, shape.hidden});
  Tensor grad_hidden = torch::stable::empty_like(hidden);
  Tensor grad_logit = torch::stable::empty_like(mean), grad_mean = torch::stable::empty_like(mean);
  const auto maps = {data(grad), data(x), data(y), data(grad_x), data(grad_residual)};
  dispatch_vectors(shape, x, maps, [&](auto element, auto size) {
    using scalar_t = decltype(element);
    using acc = acc_t<scalar_t>;
    constexpr int V = size;
    const auto* g = grad.const_data_ptr<scalar_t>();
    const auto* mask = static_cast<const scalar_t*>(data(y));
    scalar_t* masked = has_residual ? grad_residual.mutable_data_ptr<scalar_t>() : nullptr;
    Backward<scalar_t, V> backward{
        .items = cut<V>(shape),
        .channels = static_cast<int>(shape.channels),
        .hidden_size = static_cast<int>(shape.hidden),
        .inner = static_cast<Inner>(inner),
        .gate = static_cast<Gate>(gate),
        .weight1 = weight1.parameter<scalar_t>(),
        .bias1 = bias1.parameter<scalar_t>(),
        .weight2 = weight2.parameter<scalar_t>(),
        .source = {.grad = g,
                   .y = mask,
                   .x = x.const_data_ptr<scalar_t>(),
                   .g = masked,
                   .scale = scale.parameter<scalar_t>(),
                   .shift = shift.parameter<scalar_t>()},
        .map = {.grad = has_residual ? masked : g,
                .y = has_residual ? nullptr : mask,
                .grad_x = grad_x.mutable_data_ptr<scalar_t>(),
                .s = s.const_data_ptr<acc>(),
                .grad_mean = grad_mean.const_data_ptr<acc>(),
                .scale = scale.parameter<scalar_t>(),
                .channels = shape.channels,
                .pixels = static_cast<acc>(shape.pixels)},
        .mean = mean.const_data_ptr<acc>(),
        .s = s.const_data_ptr<acc>(),
        .hidden = hidden.mutable_data_ptr<acc>(),
        .grad_hidden = grad_hidden.mutable_data_ptr<acc>(),
        .grad_logit = grad_logit.mutable_data_ptr<acc>(),
        .grad_mean = grad_mean.mutable_data_ptr<acc>(),
    };
    Tensor partial = torch::stable::new_empty(mean, {shape.samples, backward.items.slots});
    backward.partial = partial.mutable_data_ptr<acc>();
    launch(backward, shape, x, ticketed);
  });
  return {grad_x, grad_residual, hidden, grad_hidden, grad_logit};
}

// The gradients of a layer's weight and bias, by those of its outputs and by its inputs.
std::pair<Tensor, Tensor> of_parameters(const Tensor& grad, const Tensor& in, const Tensor& weight,
                                        const std::optional<Tensor>& bias) {
  using namespace torch::stable;
  const Tensor product = matmul(transpose(grad, 0, 1), in);
  const Tensor grad_weight = to(reshape(product, weight.sizes()), weight.scalar_type());
  if (!bias) return {grad_weight, new_empty(grad, {0})};
  constexpr std::array<int64_t, 1> rows{0};
  return {grad_weight, to(sum(grad, {{rows.data(), 1}}), bias->scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward(
    const Tensor& grad, const Tensor& x, const std::optional<Tensor>& y, const Tensor& mean,
    const Tensor& s, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, bool has_residual, int64_t inner, int64_t gate) {
  const auto [grad_x, grad_residual, hidden, grad_hidden, grad_logit] =
      run(grad, x, y, mean, s, weight1, bias1, weight2, bias2, scale, shift, has_residual, inner,
          gate, std::nullopt);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto [grad_weight1, grad_bias1] = of_parameters(grad_hidden, mean, weight1, bias1);
  const auto [grad_weight2, grad_bias2] = of_parameters(grad_logit, hidden, weight2, bias2);
  return {grad_x, grad_residual, grad_weight1, grad_bias1, grad_weight2, grad_bias2};
}

Stages squeeze_excite_backward_launched(const Tensor& grad, const Tensor& x,
                                        const std::optional<Tensor>& y, const Tensor& mean,
                                        const Tensor& s, const Tensor& weight1,
                                        const std::optional<Tensor>& bias1, const Tensor& weight2,
                                        const std::optional<Tensor>& scale,
                                        const std::optional<Tensor>& shift, bool has_residual,
                                        int64_t inner, int64_t gate, bool ticketed) {
  return run(grad, x, y, mean, s, weight1, bias1, weight2, std::nullopt, scale, shift, has_residual,
             inner, gate, ticketed);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("squeeze_excite_backward", TORCH_BOX(&squeeze_excite_backward));
  m.impl("_squeeze_excite_backward_launched", TORCH_BOX(&squeeze_excite_backward_launched));
}

// With the launch chosen by the caller, for tests and measurements on a GPU.
STABLE_TORCH_LIBRARY_FRAGMENT(fastheads, m) {
  m.def(
      "_squeeze_excite_backward_launched(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor s, "
      "Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? scale, Tensor? shift, "
      "bool has_residual, int inner, int gate, bool ticketed) "
      "-> (Tensor grad_x, Tensor grad_residual, Tensor hidden, Tensor grad_hidden, "
      "Tensor grad_logit)");
}

}  // namespace fastheads
