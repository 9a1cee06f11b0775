// squeeze_excite on CUDA, forward.
#include <tuple>

#include "squeeze_excite_launch.cuh"

namespace fastheads {
namespace {

// What is pooled: x.
template <typename scalar_t, int V>
struct PlainSource {
  using acc = acc_t<scalar_t>;
  using packed_t = Packed<scalar_t, V>;
  static constexpr int kBatch = 4;
  struct Loaded {
    packed_t x;
  };
  const scalar_t* x;

  __device__ Loaded load(int64_t offset) const { return {packed_t::load(x + offset)}; }

  template <typename ChannelOf>
  __device__ void terms(const Loaded& loaded, int64_t, const ChannelOf&, acc (&out)[V]) const {
    loaded.x.unpack(out);
  }
};

// y = act(s (scale x + shift) + residual) = act(a x + b + residual)
template <typename scalar_t, int V>
struct ForwardMap {
  using acc = acc_t<scalar_t>;
  using packed_t = Packed<scalar_t, V>;
  struct Loaded {
    packed_t x, residual;
  };
  struct Coefficients {
    acc a, b;
  };
  const scalar_t *x, *residual;
  scalar_t* y;
  const acc* s;
  Parameter<scalar_t> scale, shift;
  int64_t channels;
  bool relu;

  __device__ Loaded load(int64_t offset) const {
    Loaded loaded{packed_t::load_last(x + offset), {}};
    if (residual != nullptr) loaded.residual = packed_t::load_last(residual + offset);
    return loaded;
  }
  __device__ Coefficients coefficients(int64_t n, int64_t c) const {
    const acc gate = s[n * channels + c];
    return {gate * scale.at(c, 1), gate * shift.at(c, 0)};
  }
  template <typename Of>
  __device__ void write(const Loaded& loaded, int64_t offset, const Of& coefficients_of) const {
    acc values[V], added[V] = {};
    loaded.x.unpack(values);
    if (residual != nullptr) loaded.residual.unpack(added);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Coefficients of = coefficients_of(j);
      values[j] = of.a * values[j] + of.b;
      if (residual != nullptr) values[j] += added[j];
      if (relu && values[j] < 0) values[j] = 0;
    }
    packed_t::pack(values).store_last(y + offset);
  }
};

template <typename scalar_t, int V>
struct Forward {
  using acc = acc_t<scalar_t>;
  enum { kPool, kMean, kHidden, kGate, kScale, kStages };
  Items items;
  int channels, hidden_size;
  Inner inner;
  Gate gate;
  Parameter<scalar_t> weight1, bias1, weight2, bias2;
  PlainSource<scalar_t, V> source;
  ForwardMap<scalar_t, V> map;
  acc *partial, *mean, *hidden, *s;  // [N, slots], [N, C], [N, R], [N, C]

  static constexpr __host__ __device__ bool of_items(int stage) {
    return stage == kPool || stage == kScale;
  }

  __host__ __device__ int tiles(int stage) const {
    if (stage == kMean) return kSamples * tiles_of(channels, kThreads);
    if (stage == kHidden) return tiles_of(hidden_size, kOutputs);
    if (stage == kGate) return tiles_of(channels, kOutputs);
    return items.count;
  }

  template <int stage>
  __device__ void run(const Rows& rows, int tile, Shared<acc>& shared) const {
    const int64_t n = rows.first;
    if constexpr (stage == kPool) {
      pool_item<V>(items, source, n, tile, partial, shared);
    } else if constexpr (stage == kScale) {
      scale_item<V>(items, map, n, tile);
    } else if constexpr (stage == kMean) {
      const int row = tile % kSamples, c = tile / kSamples * kThreads + threadIdx.x;
      if (row >= rows.count || c >= channels) return;
      const acc sum = channel_sum<V>(items, partial, n + row, c);
      const acc plain = sum / static_cast<acc>(items.pixels.value);
      mean[(n + row) * channels + c] = map.scale.at(c, 1) * plain + map.shift.at(c, 0);
    } else if constexpr (stage == kHidden) {
      product_tile<false>(rows, hidden_size, channels, tile, mean, weight1, shared,
                          [&](int64_t n, int64_t r, acc sum) {
                            hidden[n * hidden_size + r] = activate(inner, sum + bias1.at(r, 0));
                          });
    } else {
      product_tile<false>(rows, channels, hidden_size, tile, hidden, weight2, shared,
                          [&](int64_t n, int64_t c, acc sum) {
                            s[n * channels + c] = open(gate, sum + bias2.at(c, 0));
                          });
    }
  }
};

std::tuple<Tensor, Tensor, Tensor> run(const Tensor& x_, const Tensor& weight1_,
                                       const std::optional<Tensor>& bias1_, const Tensor& weight2_,
                                       const std::optional<Tensor>& bias2_,
                                       const std::optional<Tensor>& residual_,
                                       const std::optional<Tensor>& scale_,
                                       const std::optional<Tensor>& shift_, int64_t inner,
                                       int64_t gate, bool relu, std::optional<bool> ticketed,
                                       bool in_place = false) {
  const auto shape =
      check_squeeze_excite(x_, weight1_, bias1_, weight2_, bias2_, scale_, shift_, inner, gate);
  if (residual_) check_squeeze_excite_map("residual", *residual_, x_);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = dense(x_);
  std::optional<Tensor> residual;
  if (residual_) residual = in_layout_of(x, *residual_);
  const Contiguous weight1(weight1_), bias1(bias1_), weight2(weight2_), bias2(bias2_);
  const Contiguous scale(scale_), shift(shift_);
  Tensor y = in_place ? x : torch::stable::empty_like(x);  // each thread writes what it has read
  const auto sums = sum_dtype(x);
  Tensor mean = torch::stable::new_empty(x, {shape.samples, shape.channels}, sums);
  Tensor s = torch::stable::empty_like(mean);
  Tensor hidden = torch::stable::new_empty(mean, {shape.samples, shape.hidden});
  dispatch_vectors(shape, x, {data(x), data(residual), data(y)}, [&](auto element, auto size) {
    using scalar_t = decltype(element);
    constexpr int V = size;
    using acc = acc_t<scalar_t>;
    Forward<scalar_t, V> forward{
        .items = cut<V>(shape),
        .channels = static_cast<int>(shape.channels),
        .hidden_size = static_cast<int>(shape.hidden),
        .inner = static_cast<Inner>(inner),
        .gate = static_cast<Gate>(gate),
        .weight1 = weight1.parameter<scalar_t>(),
        .bias1 = bias1.parameter<scalar_t>(),
        .weight2 = weight2.parameter<scalar_t>(),
        .bias2 = bias2.parameter<scalar_t>(),
        .source = {x.const_data_ptr<scalar_t>()},
        .map = {.x = x.const_data_ptr<scalar_t>(),
                .residual = static_cast<const scalar_t*>(data(residual)),
                .y = y.mutable_data_ptr<scalar_t>(),
                .s = s.const_data_ptr<acc>(),
                .scale = scale.parameter<scalar_t>(),
                .shift = shift.parameter<scalar_t>(),
                .channels = shape.channels,
                .relu = relu},
        .mean = mean.mutable_data_ptr<acc>(),
        .hidden = hidden.mutable_data_ptr<acc>(),
        .s = s.mutable_data_ptr<acc>(),
    };
    Tensor partial = torch::stable::new_empty(mean, {shape.samples, forward.items.slots});
    forward.partial = partial.mutable_data_ptr<acc>();
    launch(forward, shape, x, ticketed);
  });
  return {y, mean, s};
}

std::tuple<Tensor, Tensor, Tensor> squeeze_excite(
    const Tensor& x, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2,
    const std::optional<Tensor>& residual, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate, bool relu) {
  return run(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu,
             std::nullopt);
}

// Scale and shift of a batch norm in inference.
template <typename scalar_t>
__global__ void fold_norm_kernel(const Parameter<scalar_t> weight, const Parameter<scalar_t> bias,
                                 const Parameter<scalar_t> mean, const Parameter<scalar_t> var,
                                 const acc_t<scalar_t> eps, const int channels,
                                 acc_t<scalar_t>* scale, acc_t<scalar_t>* shift) {
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= channels) return;
  scale[c] = weight.at(c, 1) / sqrt(var.at(c) + eps);
  shift[c] = bias.at(c, 0) - mean.at(c) * scale[c];
}

template <typename scalar_t>
void fold_norm(const std::optional<Tensor>& weight_, const std::optional<Tensor>& bias_,
               const Tensor& mean_, const Tensor& var_, double eps, Tensor& scale, Tensor& shift) {
  using acc = acc_t<scalar_t>;
  const Contiguous weight(weight_), bias(bias_), mean(mean_), var(var_);
  const int channels = scale.numel();
  if (channels == 0) return;
  fold_norm_kernel<scalar_t><<<ceil_div(channels, kThreads), kThreads, 0, current_stream(scale)>>>(
      weight.parameter<scalar_t>(), bias.parameter<scalar_t>(), mean.parameter<scalar_t>(),
      var.parameter<scalar_t>(), static_cast<acc>(eps), channels, scale.mutable_data_ptr<acc>(),
      shift.mutable_data_ptr<acc>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void squeeze_excite_(Tensor x, const Tensor& weight1, const std::optional<Tensor>& bias1,
                     const Tensor& weight2, const std::optional<Tensor>& bias2,
                     const std::optional<Tensor>& residual, const std::optional<Tensor>& scale_,
                     const std::optional<Tensor>& shift_, int64_t inner, int64_t gate, bool relu,
                     const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
                     double eps) {
  check_squeeze_excite_in_place(x, residual);
  check_squeeze_excite_norm(x, scale_, shift_, mean, var);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  std::optional<Tensor> scale = scale_, shift = shift_;
  if (var) {
    scale = torch::stable::new_empty(x, {x.size(1)}, sum_dtype(x));
    shift = torch::stable::empty_like(*scale);
    FASTHEADS_DISPATCH(x, "squeeze_excite_", [&] {
      fold_norm<scalar_t>(scale_, shift_, *mean, *var, eps, *scale, *shift);
    });
  }
  run(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu, std::nullopt,
      true);
}

std::tuple<Tensor, Tensor, Tensor> squeeze_excite_launched(
    const Tensor& x, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& bias2,
    const std::optional<Tensor>& residual, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t inner, int64_t gate, bool relu, bool ticketed) {
  return run(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu,
             ticketed);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CUDA, m) {
  m.impl("squeeze_excite", TORCH_BOX(&squeeze_excite));
  m.impl("squeeze_excite_", TORCH_BOX(&squeeze_excite_));
  m.impl("_squeeze_excite_launched", TORCH_BOX(&squeeze_excite_launched));
}

// With the launch chosen by the caller, for tests and measurements on a GPU.
STABLE_TORCH_LIBRARY_FRAGMENT(fastheads, m) {
  m.def(
      "_squeeze_excite_launched(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, "
      "Tensor? bias2, Tensor? residual, Tensor? scale, Tensor? shift, int inner, int gate, "
      "bool relu, bool ticketed) -> (Tensor y, Tensor mean, Tensor s)");
}

}  // namespace fastheads
