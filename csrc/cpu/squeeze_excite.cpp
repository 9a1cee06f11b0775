// squeeze_excite on the CPU: a group of samples is pooled, gated and scaled while it is in the
// cache.
#include "../squeeze_excite.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "dispatch.h"
#include "squeeze_excite_kernels.h"

namespace fastheads {
namespace {

using torch::stable::empty_like;
using torch::stable::new_empty;
using torch::stable::parallel_for;

constexpr int64_t kGroupBytes = int64_t(1) << 22;  // of maps, that one thread keeps in the cache
constexpr int64_t kChannels = 32;                  // that a thread takes of a sample at a time
constexpr int64_t kWideChannels = 1024;            // the same of channels-last rows
constexpr int64_t kGrainBytes = 32768;             // worth another thread
constexpr int64_t kGrainMacs = 65536;
constexpr int64_t kStreamBytes = int64_t(1) << 21;  // of a new y, more than a second-level cache

GetExciteKernels<float>* excite_kernels_here() {
#ifdef __x86_64__
  if (isa_here() == Isa::kAvx512) return excite_kernels_avx512;
  if (isa_here() == Isa::kAvx2) return excite_kernels_avx2;
#endif
  return excite_kernels_plain;
}

template <typename sum_t>
ExciteKernels<sum_t> kernels_for(const Tensor& x, const Tensor& weight) {
  if constexpr (std::is_same_v<sum_t, double>) {
    return excite_kernels_float64();
  } else {
    static GetExciteKernels<float>* const get = excite_kernels_here();
    return get(format_of(x.scalar_type()), format_of(weight.scalar_type()));
  }
}

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

std::optional<Tensor> as_sums(const std::optional<Tensor>& vector, const Tensor& x) {
  if (!vector) return std::nullopt;
  const auto dtype = sum_dtype(x);
  return as_contiguous(vector->scalar_type() == dtype ? *vector
                                                      : torch::stable::to(*vector, dtype));
}

template <typename T>
const T* pointer(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

const void* pointer(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// Blocks of at least 49 pixels, at most 64 of them: partial sums are few and short, and several
// threads can share a sample.
MapShape map_shape(const SqueezeExciteShape& shape) {
  const int64_t most = shape.channels_last ? std::clamp<int64_t>(shape.pixels / 49, 1, 64) : 1;
  const int64_t block_pixels = std::max<int64_t>(1, (shape.pixels + most - 1) / most);
  const int64_t blocks = std::max<int64_t>(1, (shape.pixels + block_pixels - 1) / block_pixels);
  return {shape.channels, shape.pixels, blocks, block_pixels, shape.channels_last};
}

// The work of an operator, each on the results of those before.
template <class Pool, class Finish, class Hidden, class Gates, class Excite>
struct Steps {
  Pool pool;      // (tile): partial sums
  Finish finish;  // (samples): sums
  Hidden hidden;  // (samples, units)
  Gates gates;    // (samples, channels)
  Excite excite;  // (tile)
};

// Takes the steps for all samples; sample_bytes are what excite finds in the cache.
template <class Steps>
void run(const MapShape& maps, int64_t samples, int64_t hidden, int64_t sample_bytes, Steps steps) {
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1 || samples >= 2 * threads) {
    const int64_t group = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, sample_bytes));
    return parallel_for(0, samples, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n += group) {
        const Tile tile{{n, std::min(n + group, end)}, {0, maps.channels}, {0, maps.blocks}};
        steps.pool(tile);
        steps.finish(tile.samples);
        steps.hidden(tile.samples, Range{0, hidden});
        steps.gates(tile.samples, tile.channels);
        steps.excite(tile);
      }
    });
  }
  // Too few samples for all threads, which share each: blocks of pixels if channels-last, channels
  // in whole kilobytes else.
  const int64_t width = maps.channels_last ? kWideChannels : kChannels;
  const int64_t columns = (maps.channels + width - 1) / width;
  const int64_t tile_bytes = sample_bytes / std::max<int64_t>(1, columns * maps.blocks);
  const auto for_tiles = [&](auto step) {
    parallel_for(0, samples * maps.blocks * columns, 1 + kGrainBytes / (tile_bytes + 1),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t c = i % columns * width, row = i / columns;
                     const int64_t n = row / maps.blocks, b = row % maps.blocks;
                     step(Tile{{n, n + 1}, {c, std::min(c + width, maps.channels)}, {b, b + 1}});
                   }
                 });
  };
  const auto for_units = [&](int64_t units, int64_t macs, auto step) {
    parallel_for(0, units, 1 + kGrainMacs / (samples * macs + 1),
                 [&](int64_t begin, int64_t end) { step(Range{0, samples}, Range{begin, end}); });
  };
  for_tiles(steps.pool);
  steps.finish(Range{0, samples});
  for_units(hidden, maps.channels, steps.hidden);
  for_units(maps.channels, hidden, steps.gates);
  for_tiles(steps.excite);
}

// sums[n, c] = sum of partial[n, b, c] over the blocks, of these samples.
template <typename sum_t>
void add_blocks(const MapShape& maps, Range samples, const sum_t* partial, sum_t* sums) {
  for (int64_t n = samples.begin; n < samples.end; ++n) {
    const sum_t* from = partial + n * maps.blocks * maps.channels;
    sum_t* to = sums + n * maps.channels;
    std::copy_n(from, maps.channels, to);
    for (int64_t b = 1; b < maps.blocks; ++b) {
      from += maps.channels;
      for (int64_t c = 0; c < maps.channels; ++c) to[c] += from[c];
    }
  }
}

// Whether y does better not to pass through the caches, and has whole vectors, aligned, throughout.
bool streams(const MapShape& map, const Tensor& x, const Tensor& y) {
  constexpr int64_t kLine = 64, kFloats = kLine / sizeof(float);
  if (x.const_data_ptr() == y.const_data_ptr() || y.scalar_type() != ScalarType::Float ||
      y.numel() * int64_t(sizeof(float)) < kStreamBytes) {
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
  const Tensor sums = new_empty(mean, {shape.samples, map.blocks, shape.channels});
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
  const Tensor hidden_ = new_empty(mean, {shape.samples, shape.hidden});
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
  Tensor y = in_place ? x : empty_like(x);
  Tensor mean = new_empty(x, {shape.samples, shape.channels}, sum_type), s = empty_like(mean);
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

void squeeze_excite_(Tensor x, const Tensor& weight1, const std::optional<Tensor>& bias1,
                     const Tensor& weight2, const std::optional<Tensor>& bias2,
                     const std::optional<Tensor>& residual, const std::optional<Tensor>& scale,
                     const std::optional<Tensor>& shift, int64_t inner, int64_t gate, bool relu) {
  check_squeeze_excite_in_place(x);
  excited(x, weight1, bias1, weight2, bias2, residual, scale, shift, inner, gate, relu, true);
}

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

template <typename sum_t>
void backward(const SqueezeExciteShape& shape, const Tensor& grad, const Tensor& x,
              const std::optional<Tensor>& y, const Tensor& mean, const Tensor& s,
              const Tensor& weight1, const std::optional<Tensor>& bias1, const Tensor& weight2,
              const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, Inner inner,
              Gate gate, Tensor& grad_x, Tensor& grad_residual, Tensor& hidden_,
              Tensor& grad_hidden_, Tensor& grad_logit) {
  const auto kernels = kernels_for<sum_t>(x, weight1);
  const Linear<sum_t> first{weight1.const_data_ptr(), pointer<sum_t>(bias1), shape.hidden,
                            shape.channels, Activation::kNone};
  const Linear<sum_t> second{weight2.const_data_ptr(), nullptr, shape.channels, shape.hidden,
                             Activation::kNone};
  const Tensor grad_mean_ = empty_like(mean);
  sum_t* grad_mean = grad_mean_.mutable_data_ptr<sum_t>();
  const bool stores_residual = grad_residual.dim() == 4;
  const MapShape map = map_shape(shape);
  const Tensor sums = new_empty(mean, {shape.samples, map.blocks, shape.channels});
  const ExciteBackward<sum_t> maps{map,
                                   grad.const_data_ptr(),
                                   x.const_data_ptr(),
                                   pointer(y),
                                   grad_x.mutable_data_ptr(),
                                   stores_residual ? grad_residual.mutable_data_ptr() : nullptr,
                                   pointer<sum_t>(scale),
                                   pointer<sum_t>(shift),
                                   s.const_data_ptr<sum_t>(),
                                   grad_mean,
                                   sums.mutable_data_ptr<sum_t>()};
  sum_t* grad_logits = grad_logit.mutable_data_ptr<sum_t>();
  const sum_t* means = mean.const_data_ptr<sum_t>();
  sum_t* hidden = hidden_.mutable_data_ptr<sum_t>();
  sum_t* grad_hidden = grad_hidden_.mutable_data_ptr<sum_t>();
  const int64_t sample_bytes = 3 * shape.channels * shape.pixels * x.element_size();
  run(map, shape.samples, shape.hidden, sample_bytes,
      Steps{[&](const Tile& tile) { kernels.pool_backward(maps, tile); },
            [&](Range samples) {
              add_blocks(map, samples, maps.sums, grad_logits);
              const int64_t i = samples.begin * shape.channels;
              const int64_t count = (samples.end - samples.begin) * shape.channels;
              gate_backward(gate, count, maps.s + i, grad_logits + i);
            },
            [&](Range samples, Range units) {
              kernels.linear(first, samples, units, means, hidden);
              kernels.linear_transposed(second, samples, units, grad_logits, grad_hidden);
              for (int64_t n = samples.begin; n < samples.end; ++n) {
                const int64_t i = n * shape.hidden + units.begin;
                inner_backward(inner, units.end - units.begin, hidden + i, grad_hidden + i);
              }
            },
            [&](Range samples, Range channels) {
              kernels.linear_transposed(first, samples, channels, grad_hidden, grad_mean);
            },
            [&](const Tile& tile) { kernels.excite_backward(maps, tile); }});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward(
    const Tensor& grad, const Tensor& x_, const std::optional<Tensor>& y_, const Tensor& mean,
    const Tensor& s, const Tensor& weight1, const std::optional<Tensor>& bias1,
    const Tensor& weight2, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
    bool has_residual, int64_t inner, int64_t gate) {
  const auto shape = check_squeeze_excite_backward(grad, x_, y_, mean, s, weight1, bias1, weight2,
                                                   scale, shift, inner, gate);
  const Tensor x = dense(x_);
  std::optional<Tensor> y;
  if (y_) y = in_layout_of(x, *y_);
  Tensor grad_x = empty_like(x), grad_residual = has_residual ? empty_like(x) : new_empty(x, {0});
  Tensor hidden = new_empty(mean, {shape.samples, shape.hidden}), grad_hidden = empty_like(hidden);
  Tensor grad_logit = new_empty(mean, {shape.samples, shape.channels});
  const auto call = sum_dtype(x) == ScalarType::Double ? backward<double> : backward<float>;
  call(shape, in_layout_of(x, grad), x, y, as_contiguous(mean), as_contiguous(s),
       as_contiguous(weight1), as_sums(bias1, x), as_contiguous(weight2), as_sums(scale, x),
       as_sums(shift, x), Inner(inner), Gate(gate), grad_x, grad_residual, hidden, grad_hidden,
       grad_logit);
  return {grad_x, grad_residual, hidden, grad_hidden, grad_logit};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("squeeze_excite", TORCH_BOX(&squeeze_excite));
  m.impl("squeeze_excite_", TORCH_BOX(&squeeze_excite_));
  m.impl("squeeze_excite_backward", TORCH_BOX(&squeeze_excite_backward));
}

}  // namespace fastheads
