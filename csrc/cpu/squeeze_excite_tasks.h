// What the host code of squeeze_excite forward and backward shares: the kernels of this processor,
// and how the work is dealt out to threads.
#pragma once

#include <algorithm>

#include "../squeeze_excite.h"
#include "allocate.h"
#include "dispatch.h"
#include "squeeze_excite_kernels.h"

namespace fastheads {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kGroupBytes = int64_t(1) << 22;  // of maps, that one thread keeps in the cache
constexpr int64_t kChannels = 32;                  // that a thread takes of a sample at a time
constexpr int64_t kWideChannels = 1024;            // the same of channels-last rows
constexpr int64_t kGrainBytes = 32768;             // worth another thread
constexpr int64_t kGrainMacs = 65536;

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

template <typename half_t>
void widen(const Tensor& from, Tensor& to) {
  const auto* values = static_cast<const half_t*>(from.const_data_ptr());
  std::copy_n(values, from.numel(), to.mutable_data_ptr<float>());
}

// Not by an operator of PyTorch: with cold caches two of them are a tenth of ours on one sample.
std::optional<Tensor> as_sums(const std::optional<Tensor>& vector, const Tensor& x) {
  if (!vector) return std::nullopt;
  const Tensor given = as_contiguous(*vector);
  if (given.scalar_type() == sum_dtype(x)) return given;
  Tensor sums = empty<1>({given.numel()}, ScalarType::Float);
  given.scalar_type() == ScalarType::Half ? widen<torch::headeronly::Half>(given, sums)
                                          : widen<torch::headeronly::BFloat16>(given, sums);
  return sums;
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

// Takes the steps for some samples with all threads, which share each sample: blocks of pixels if
// channels-last, channels in whole kilobytes else.
template <class Steps>
void run_shared(const MapShape& maps, Range samples, int64_t hidden, int64_t sample_bytes,
                const Steps& steps) {
  const int64_t width = maps.channels_last ? kWideChannels : kChannels;
  const int64_t columns = (maps.channels + width - 1) / width, count = samples.end - samples.begin;
  const int64_t tile_bytes = sample_bytes / std::max<int64_t>(1, columns * maps.blocks);
  const auto for_tiles = [&](auto step) {
    parallel_for(0, count * maps.blocks * columns, 1 + kGrainBytes / (tile_bytes + 1),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t c = i % columns * width, row = i / columns;
                     const int64_t n = samples.begin + row / maps.blocks, b = row % maps.blocks;
                     step(Tile{{n, n + 1}, {c, std::min(c + width, maps.channels)}, {b, b + 1}});
                   }
                 });
  };
  const auto for_units = [&](int64_t units, int64_t macs, auto step) {
    parallel_for(0, units, 1 + kGrainMacs / (count * macs + 1),
                 [&](int64_t begin, int64_t end) { step(samples, Range{begin, end}); });
  };
  for_tiles(steps.pool);
  steps.finish(samples);
  for_units(hidden, maps.channels, steps.hidden);
  for_units(maps.channels, hidden, steps.gates);
  for_tiles(steps.excite);
}

// Takes the steps for all samples; sample_bytes are what excite finds in the cache.
template <class Steps>
void run(const MapShape& maps, int64_t samples, int64_t hidden, int64_t sample_bytes, Steps steps) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t group = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, sample_bytes));
  if (threads > 1 && samples < 2 * threads) {  // too few for all threads
    for (int64_t n = 0; n < samples; n += threads * group) {
      run_shared(maps, {n, std::min(n + threads * group, samples)}, hidden, sample_bytes, steps);
    }
    return;
  }
  parallel_for(0, samples, 1, [&](int64_t begin, int64_t end) {
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

}  // namespace
}  // namespace fastheads
