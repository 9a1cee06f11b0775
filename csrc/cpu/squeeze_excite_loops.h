// The loops of squeeze_excite over the maps, included by one file an instruction set. Sums are
// split into several partial sums, which are added in an order that depends on the shape alone.
#pragma once

#include <type_traits>

#include "float_vector.h"
#include "squeeze_excite_kernels.h"
#include "squeeze_excite_linear.h"

namespace fastheads {
namespace {

constexpr int64_t kChunk = 1024;  // channels of channels-last rows at a time: 4 KB of sums
constexpr int64_t kRun = 1024;    // numbers of a contiguous row summed before they join all

// Calls body(n, c, count) for every run of at most chunk channels of every sample of the tile.
template <class Body>
void for_chunks(const Tile& tile, int64_t chunk, Body body) {
  for (int64_t n = tile.samples.begin; n < tile.samples.end; ++n) {
    for (int64_t c = tile.channels.begin; c < tile.channels.end; c += chunk) {
      const int64_t left = tile.channels.end - c;
      body(n, c, left < chunk ? left : chunk);
    }
  }
}

// Calls body(block, pixel, end of pixels) for every block of the tile.
template <class Body>
void for_blocks(const MapShape& shape, Range blocks, Body body) {
  for (int64_t b = blocks.begin; b < blocks.end; ++b) {
    const int64_t p = b * shape.block_pixels, end = p + shape.block_pixels;
    body(b, p, end < shape.pixels ? end : shape.pixels);
  }
}

// sums[r] = the sum of term(r, i, part), a vector, over numbers i to end of some rows.
template <typename sum_t, int kRows, class Term>
void sum_run(int64_t i, int64_t end, sum_t* sums, Term term) {
  constexpr int kParts = kVectorBytes == 64 ? 4 : 2;  // as many as fit the registers
  constexpr int64_t kWidth = kLanes<sum_t>;
  Vector<sum_t> parts[kParts][kRows];
  clear(parts);
  const auto add = [&](int j, int64_t i, auto part) {
    for (int r = 0; r < kRows; ++r) parts[j][r] += term(r, i, part);
  };
  for (; i + kParts * kWidth <= end; i += kParts * kWidth) {
    for (int j = 0; j < kParts; ++j) add(j, i + j * kWidth, All{});
  }
  for (; i + kWidth <= end; i += kWidth) add(0, i, All{});
  if (i < end) add(kParts - 1, i, Some{end - i});
  for (int r = 0; r < kRows; ++r) {
    parts[0][r] += parts[1][r];
    if constexpr (kParts == 4) parts[0][r] += parts[2][r] + parts[3][r];
  }
  if constexpr (kRows == 4) {
    sum_lanes(parts[0], sums);
  } else {
    for (int r = 0; r < kRows; ++r) sums[r] = sum_lanes<sum_t>(parts[0][r]);
  }
}

// The same over whole rows: run after run, because long sums in one order lose digits.
template <typename sum_t, int kRows, class Term>
void sum_rows(int64_t size, sum_t* sums, Term term) {
  for (int r = 0; r < kRows; ++r) sums[r] = 0;
  for (int64_t i = 0; i < size; i += kRun) {
    sum_t run[kRows];
    sum_run<sum_t, kRows>(i, i + kRun < size ? i + kRun : size, run, term);
    for (int r = 0; r < kRows; ++r) sums[r] += run[r];
  }
}

template <class F>
struct Loops {
  using raw_t = typename F::raw_t;
  using sum_t = typename F::sum_t;
  using V = Vector<sum_t>;
  using Forward = ExciteForward<sum_t>;
  using Backward = ExciteBackward<sum_t>;

  static void pool(const Forward& args, const Tile& tile) {
    const MapShape& shape = args.shape;
    const auto* x = static_cast<const raw_t*>(args.x);
    if (!shape.channels_last) {
      return pool_rows(args, tile,
                       [&](int64_t, int64_t i, auto part) { return F::load(x + i, part); });
    }
    for_chunks(tile, kChunk, [&](int64_t n, int64_t c, int64_t count) {
      const raw_t* first = x + n * shape.pixels * shape.channels + c;
      for_blocks(shape, tile.blocks, [&](int64_t block, int64_t p, int64_t end) {
        sum_t* sums = args.sums + (n * shape.blocks + block) * shape.channels + c;
        std::memset(sums, 0, count * sizeof(sum_t));
        while (p < end) {
          p += add_pixels(first + p * shape.channels, shape.channels, end - p, count, sums);
        }
      });
    });
  }

  static void excite(const Forward& args, const Tile& tile) {
    const auto with = [&](auto has_residual, auto relu) {
      const auto* x = static_cast<const raw_t*>(args.x);
      const auto* residual = static_cast<const raw_t*>(args.residual);
      auto* y = static_cast<raw_t*>(args.y);
      const bool stream = args.stream;
      const auto coefficients = [&](int64_t row, int64_t c) {
        const sum_t s = args.s[row];
        return Affine{s * value_or(args.scale, c, sum_t(1)), s * value_or(args.shift, c, sum_t(0))};
      };
      affine_rows(args.shape, tile, coefficients, [&](int64_t row, auto part, auto a, auto b) {
        V v = a * F::load(x + row, part) + b;
        if constexpr (has_residual()) v += F::load(residual + row, part);
        if constexpr (relu()) v = v < 0 ? V{} : v;
        if constexpr (std::is_same_v<decltype(part), All>) {
          if (stream) return write_past_caches(y + row, F::pack(v));
        }
        F::store(y + row, v, part);
      });
      if (stream) finish_writes();
    };
    choose(args.residual != nullptr, args.relu, with);
  }

  static void pool_backward(const Backward& args, const Tile& tile) {
    choose(args.y != nullptr, args.grad_residual != nullptr, [&](auto masked, auto stored) {
      const MapShape& shape = args.shape;
      const auto* x = static_cast<const raw_t*>(args.x);
      auto* grad_residual = static_cast<raw_t*>(args.grad_residual);
      const auto product = [&](int64_t i, auto part, V scale, V shift) {
        const V g = masked_grad<masked()>(args, i, part);
        if constexpr (stored()) F::store(grad_residual + i, g, part);
        return g * (scale * F::load(x + i, part) + shift);
      };
      if (!shape.channels_last) {
        return pool_rows(args, tile, [&](int64_t c, int64_t i, auto part) {
          return product(i, part, V{} + value_or(args.scale, c, sum_t(1)),
                         V{} + value_or(args.shift, c, sum_t(0)));
        });
      }
      for_chunks(tile, kChunk, [&](int64_t n, int64_t c, int64_t count) {
        alignas(64) sum_t scale[kChunk], shift[kChunk];
        for (int64_t i = 0; i < count; ++i) {
          scale[i] = value_or(args.scale, c + i, sum_t(1));
          shift[i] = value_or(args.shift, c + i, sum_t(0));
        }
        for_blocks(shape, tile.blocks, [&](int64_t block, int64_t begin, int64_t end) {
          sum_t* sums = args.sums + (n * shape.blocks + block) * shape.channels + c;
          std::memset(sums, 0, count * sizeof(sum_t));
          const auto add = [&](int64_t p, auto pixels) {
            const int64_t first = (n * shape.pixels + p) * shape.channels + c;
            for_vectors<sum_t>(count, [&](int64_t i, auto part) {
              const V a = read<V>(scale + i, part), b = read<V>(shift + i, part);
              V sum = product(first + i, part, a, b);
              for (int k = 1; k < pixels(); ++k) {
                sum += product(first + k * shape.channels + i, part, a, b);
              }
              write(sums + i, read<V>(sums + i, part) + sum, part);
            });
          };
          int64_t p = begin;
          for (; p + 4 <= end; p += 4) add(p, std::integral_constant<int, 4>{});
          for (; p < end; ++p) add(p, std::integral_constant<int, 1>{});
        });
      });
    });
  }

  static void excite_backward(const Backward& args, const Tile& tile) {
    const MapShape& shape = args.shape;
    auto* grad_x = static_cast<raw_t*>(args.grad_x);
    const auto coefficients = [&](int64_t row, int64_t c) {
      const sum_t scale = value_or(args.scale, c, sum_t(1));
      return Affine{scale * args.s[row], scale * args.grad_mean[row] / shape.pixels};
    };
    // What pool_backward has stored needs no second mask.
    const auto* stored = static_cast<const raw_t*>(args.grad_residual);
    choose(stored != nullptr, args.y != nullptr, [&](auto has_stored, auto masked) {
      affine_rows(shape, tile, coefficients, [&](int64_t i, auto part, auto a, auto b) {
        V g;
        if constexpr (has_stored()) {
          g = F::load(stored + i, part);
        } else {
          g = masked_grad<masked()>(args, i, part);
        }
        F::store(grad_x + i, a * g + b, part);
      });
    });
  }

 private:
  struct Affine {
    sum_t factor, offset;
  };

  // Calls body with two flags that are known to the compiler.
  template <class Body>
  static void choose(bool first, bool second, Body body) {
    using Yes = std::true_type;
    using No = std::false_type;
    if (first) {
      second ? body(Yes{}, Yes{}) : body(Yes{}, No{});
    } else {
      second ? body(No{}, Yes{}) : body(No{}, No{});
    }
  }

  // The sums of term(c, i, part) over the pixels of every channel of contiguous maps.
  template <class Args, class Term>
  static void pool_rows(const Args& args, const Tile& tile, Term term) {
    const int64_t pixels = args.shape.pixels;
    for_chunks(tile, 4, [&](int64_t n, int64_t c, int64_t count) {
      const int64_t row = n * args.shape.channels + c;
      const auto of_row = [&](int64_t r, int64_t i, auto part) {
        return term(c + r, (row + r) * pixels + i, part);
      };
      if (count == 4) return sum_rows<sum_t, 4>(pixels, args.sums + row, of_row);
      for (int64_t r = 0; r < count; ++r) {
        sum_rows<sum_t, 1>(pixels, args.sums + row + r,
                           [&](int64_t, int64_t i, auto part) { return of_row(r, i, part); });
      }
    });
  }

  // Calls body(i, part, a, b) for all vectors of the tile, with the coefficients of their channels.
  template <class Coefficients, class Body>
  static void affine_rows(const MapShape& shape, const Tile& tile, Coefficients coefficients,
                          Body body) {
    if (!shape.channels_last) {
      for (int64_t n = tile.samples.begin; n < tile.samples.end; ++n) {
        affine_planes(shape, n, tile.channels, coefficients, body);
      }
      return;
    }
    for_chunks(tile, kChunk, [&](int64_t n, int64_t c, int64_t count) {
      alignas(64) sum_t a[kChunk], b[kChunk];
      for (int64_t i = 0; i < count; ++i) {
        const auto [factor, offset] = coefficients(n * shape.channels + c + i, c + i);
        a[i] = factor, b[i] = offset;
      }
      for_blocks(shape, tile.blocks, [&](int64_t, int64_t p, int64_t end) {
        for (; p < end; ++p) {
          const int64_t first = (n * shape.pixels + p) * shape.channels + c;
          for_vectors<sum_t>(count, [&](int64_t i, auto part) {
            body(first + i, part, read<V>(a + i, part), read<V>(b + i, part));
          });
        }
      });
    });
  }

  // The same for channels of one contiguous sample. A vector goes across the end of a row, so that
  // all are aligned where the first one is.
  template <class Coefficients, class Body>
  static void affine_planes(const MapShape& shape, int64_t n, Range channels,
                            Coefficients coefficients, Body body) {
    int64_t i = (n * shape.channels + channels.begin) * shape.pixels;
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      const int64_t row = n * shape.channels + c, end = (row + 1) * shape.pixels;
      const auto [factor, offset] = coefficients(row, c);
      const V a = V{} + factor, b = V{} + offset;
      for (; i + kLanes<sum_t> <= end; i += kLanes<sum_t>) body(i, All{}, a, b);
      if (i >= end) continue;
      if (c + 1 == channels.end || shape.pixels < kLanes<sum_t>) {
        body(i, Some{end - i}, a, b);
        i = end;
      } else {
        const auto [next_factor, next_offset] = coefficients(row + 1, c + 1);
        const auto own = first_lanes<sum_t>(end - i);
        body(i, All{}, own ? a : V{} + next_factor, own ? b : V{} + next_offset);
        i += kLanes<sum_t>;
      }
    }
  }

  // Adds the next pixels, 8 if there are as many, else 1, to count sums.
  static int64_t add_pixels(const raw_t* x, int64_t stride, int64_t pixels, int64_t count,
                            sum_t* sums) {
    const auto at = [&](int64_t p, int64_t i, auto part) {
      return F::load(x + p * stride + i, part);
    };
    if (pixels < 8) {
      for_vectors<sum_t>(count, [&](int64_t i, auto part) {
        write(sums + i, read<V>(sums + i, part) + at(0, i, part), part);
      });
      return 1;
    }
    for_vectors<sum_t>(count, [&](int64_t i, auto part) {
      const V four = (at(0, i, part) + at(1, i, part)) + (at(2, i, part) + at(3, i, part));
      const V more = (at(4, i, part) + at(5, i, part)) + (at(6, i, part) + at(7, i, part));
      write(sums + i, read<V>(sums + i, part) + (four + more), part);
    });
    return 8;
  }

  template <bool masked, class Part>
  static V masked_grad(const Backward& args, int64_t i, Part part) {
    const V g = F::load(static_cast<const raw_t*>(args.grad) + i, part);
    if constexpr (!masked) return g;
    const V y = F::load(static_cast<const raw_t*>(args.y) + i, part);
    return y <= 0 ? V{} : g;
  }
};

template <class Maps, class Weights>
ExciteKernels<typename Maps::sum_t> kernels_of() {
  using M = Loops<Maps>;
  using W = LinearLoops<Weights>;
  using Sums = std::conditional_t<std::is_same_v<Maps, Float64>, Float64, Float32>;
  return {M::pool,    M::excite,  M::pool_backward,          M::excite_backward,
          W::forward, W::product, LinearLoops<Sums>::product};
}

inline ExciteKernels<float> kernels_of(FloatFormat maps, FloatFormat weights) {
  const bool wide = weights == FloatFormat::kFloat32;
  switch (maps) {
    case FloatFormat::kBFloat16:
      return wide ? kernels_of<BFloat16, Float32>() : kernels_of<BFloat16, BFloat16>();
    case FloatFormat::kFloat16:
      return wide ? kernels_of<Float16, Float32>() : kernels_of<Float16, Float16>();
    default:
      return kernels_of<Float32, Float32>();
  }
}

}  // namespace
}  // namespace fastheads
