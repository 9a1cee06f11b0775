// The products of sc_linear on blocks of sums that stay in registers. Included by one file an
// instruction set; everything is local to it.
#pragma once

#include "sc_linear_lanes.h"

namespace fastheads {
namespace {

// 24 sums and what is multiplied, in 32 registers; 12 in 16.
constexpr bool kManyRegisters = kVectorBytes == 64;
constexpr int kLabels = kManyRegisters ? 6 : 3, kRows = 4;    // dots
constexpr int kTileLabels = 48;                               // whole blocks, and whole vectors
constexpr int kCount = 6, kVectors = kManyRegisters ? 4 : 2;  // outer

template <class F>
void pack_rows(const ScPack& p) {
  using sum_t = typename F::sum_t;
  using raw_t = typename F::raw_t;
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t row = p.picked != nullptr ? p.picked[r] : r;
    const auto* from = static_cast<const raw_t*>(p.from) + row * p.from_stride;
    if (p.raw) {
      auto* to = static_cast<raw_t*>(p.to) + r * p.to_stride;
      std::memcpy(to, from, p.columns * sizeof(raw_t));
      std::memset(to + p.columns, 0, p.zeros * sizeof(raw_t));
      continue;
    }
    auto* to = static_cast<sum_t*>(p.to) + r * p.to_stride;
    for_vectors<sum_t>(p.columns, [&](int64_t c, auto part) {
      Float<sum_t>::store(to + c, F::load(from + c, part), part);
    });
    for (int64_t i = 0; i < p.zeros; ++i) to[p.columns + i] = 0;
  }
}

// How a vector of raw weights is multiplied by one of x and added to the sums.
template <class F>
struct Product {
  using x_t = typename F::sum_t;
  template <class Part>
  static Vector<x_t> weight(const typename F::raw_t* p, Part part) {
    return F::load(p, part);
  }
  static Vector<x_t> add(Vector<x_t> sums, Vector<x_t> weight, Vector<x_t> x) {
    return sums + weight * x;
  }
};

#ifdef __AVX512BF16__
template <>
struct Product<BFloat16> {
  using x_t = uint16_t;
  static Vector<x_t> weight(const x_t* p, All) { return read<Vector<x_t>>(p, All{}); }
  static Vector<x_t> weight(const x_t* p, Some part) {
    return (Vector<x_t>)_mm512_maskz_loadu_epi16((uint32_t(1) << part.count) - 1, p);
  }
  static Vector<float> add(Vector<float> sums, Vector<x_t> weight, Vector<x_t> x) {
    return _mm512_dpbf16_ps(sums, (__m512bh)weight, (__m512bh)x);
  }
};
#endif

// The weights of the next block are fetched while this one is multiplied: of each label where there
// are few rows, else a label a block of rows.
template <class F, int rows, bool all_ahead>
void dots_block(const ScDots& d, const typename F::raw_t* w, const int64_t (&at)[kLabels],
                const typename Product<F>::x_t* x, const typename F::raw_t* ahead,
                typename F::sum_t (&sums)[kLabels][kRows]) {
  using P = Product<F>;
  using X = Vector<typename P::x_t>;
  Vector<typename F::sum_t> acc[kLabels][kRows] = {};
  for_vectors<typename P::x_t>(d.width, [&](int64_t k, auto part) {
    X features[rows];
    for (int r = 0; r < rows; ++r) features[r] = read<X>(x + r * d.x_stride + k, All{});
    for (int l = 0; l < kLabels; ++l) {
      const X weight = P::weight(w + at[l] + k, part);
      for (int r = 0; r < rows; ++r) acc[l][r] = P::add(acc[l][r], weight, features[r]);
      if (all_ahead) __builtin_prefetch(ahead + l * d.width + k);
    }
    if (!all_ahead) __builtin_prefetch(ahead + k);
  });
  for (int l = 0; l < kLabels; ++l) sum_lanes(acc[l], sums[l]);
}

// Rows of y from the sums of some labels. By whole vectors: the masked writes of a block of six
// bfloat16 at a time took a third of the time of dots.
template <class F>
void store_tile(const ScDots& d, int64_t first, int64_t labels,
                const typename F::sum_t (&tile)[kDotsRows][kTileLabels]) {
  using sum_t = typename F::sum_t;
  using raw_t = typename F::raw_t;
  const auto* bias = static_cast<const raw_t*>(d.bias) + first;
  for (int64_t r = 0; r < d.rows; ++r) {
    auto* y = static_cast<raw_t*>(d.y) + d.y_begins[r] + first;
    for_vectors<sum_t>(labels, [&](int64_t i, auto part) {
      Vector<sum_t> v = Float<sum_t>::load(tile[r] + i, part);
      if (d.bias != nullptr) v += F::load(bias + i, part);
      if (d.accumulate) v += F::load(y + i, part);
      F::store(y + i, v, part);
    });
  }
}

template <class F>
void dots_of(const ScDots& d) {
  using sum_t = typename F::sum_t;
  const auto* weight = static_cast<const typename F::raw_t*>(d.w);
  using x_t = typename Product<F>::x_t;
  const auto* x = static_cast<const x_t*>(d.x);
  sum_t tile[kDotsRows][kTileLabels];
  for (int64_t label = 0; label < d.labels; label += kLabels) {
    const int64_t labels = d.labels - label < kLabels ? d.labels - label : kLabels;
    const int64_t column = label % kTileLabels;
    const auto* w = weight + label * d.width;
    const auto* next = label + kLabels < d.labels ? w + kLabels * d.width : w;
    int64_t at[kLabels];  // the last label again where there are fewer
    for (int l = 0; l < kLabels; ++l) at[l] = (l < labels ? l : labels - 1) * d.width;
    for (int64_t row = 0; row < d.rows; row += kRows) {
      const int64_t rows = d.rows - row < kRows ? d.rows - row : kRows, block = row / kRows;
      sum_t sums[kLabels][kRows];
      for_count<kRows>(rows, [&](auto count) {
        const x_t* from = x + row * d.x_stride;
        if (d.rows <= kLabels / 2 * kRows) {
          dots_block<F, count, true>(d, w, at, from, next, sums);
        } else {
          const auto* ahead = next + (block < kLabels ? block : 0) * d.width;
          dots_block<F, count, false>(d, w, at, from, ahead, sums);
        }
      });
      for (int r = 0; r < kRows; ++r) {
        for (int l = 0; l < kLabels; ++l) tile[row + r][column + l] = sums[l][r];
      }
    }
    if (column + kLabels == kTileLabels || label + kLabels >= d.labels) {
      store_tile<F>(d, label - column, column + labels, tile);
    }
  }
}

// Calls body(i, v) one after the other without a loop, through which sums would go by memory.
template <int count, int vectors, class Body>
inline __attribute__((always_inline)) void each(Body body) {
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) body(i, v);
  }
}

// count x vectors sums; the last vector is a part.
template <typename T, int count, int vectors, class Part>
void outer_block(const ScOuter& o, const T* a, const T* b, T* c, Part part, const char* ahead) {
  constexpr bool whole = std::is_same_v<Part, All>;
  if (!whole || !o.stream) {
    for (int i = 0; i < count; ++i) {  // what is written at the end
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(c + i * o.c_stride + v * kLanes<T>, 1);
    }
  }
  Vector<T> acc[count][vectors];
  each<count, vectors>([&](int i, int v) { acc[i][v] = Vector<T>{}; });
  for (int64_t r = 0; r < o.sums; ++r) {
    Vector<T> row[vectors];
    for (int v = 0; v < vectors; ++v) {
      row[v] = read<Vector<T>>(b + r * o.b_stride + v * kLanes<T>, All{});
    }
    for (int i = 0; i < count; ++i) {
      const T factor = a[r * o.a_stride + i];
      for (int v = 0; v < vectors; ++v) acc[i][v] += row[v] * factor;
    }
    __builtin_prefetch(ahead + 64 * r, 0, 2);
  }
  if (o.accumulate) {
    each<count, vectors>([&](int i, int v) {
      acc[i][v] += Float<T>::load(c + i * o.c_stride + v * kLanes<T>, part);
    });
  }
  if constexpr (whole) {
    if (o.stream) {
      each<count, vectors>(
          [&](int i, int v) { write_past_caches(c + i * o.c_stride + v * kLanes<T>, acc[i][v]); });
      return;
    }
  }
  each<count, vectors>(
      [&](int i, int v) { Float<T>::store(c + i * o.c_stride + v * kLanes<T>, acc[i][v], part); });
}

template <typename T>
void outer_of(const ScOuter& o) {
  const auto *a = static_cast<const T*>(o.a), *b = static_cast<const T*>(o.b);
  auto* c = static_cast<T*>(o.c);
  int64_t fetched = 0;
  const auto columns = [&](int64_t k, auto vectors, auto part) {
    for (int64_t i = 0; i < o.count; i += kCount) {
      const int64_t count = o.count - i < kCount ? o.count - i : kCount;
      const bool more = fetched + 64 * o.sums <= o.ahead_bytes;
      const char* ahead = more ? o.ahead + fetched : static_cast<const char*>(o.b);
      fetched += 64 * o.sums;
      for_count<kCount>(count, [&](auto known) {
        outer_block<T, known, vectors>(o, a + i, b + k, c + i * o.c_stride + k, part, ahead);
      });
    }
  };
  int64_t k = 0;
  for (constexpr int64_t step = kVectors * kLanes<T>; k + step <= o.width; k += step) {
    columns(k, std::integral_constant<int, kVectors>(), All{});
  }
  for_vectors<T>(o.width - k, [&](int64_t i, auto part) {
    columns(k + i, std::integral_constant<int, 1>(), part);
  });
  if (o.stream) finish_writes();
}

template <class F>
void reduce_of(const ScReduce& p) {
  using sum_t = typename F::sum_t;
  for (int64_t r = 0; r < p.rows; ++r) {
    const auto* from = static_cast<const sum_t*>(p.from) + r * p.from_stride;
    auto* to = static_cast<typename F::raw_t*>(p.to) + r * p.to_stride;
    for_vectors<sum_t>(p.columns, [&](int64_t c, auto part) {
      Vector<sum_t> sum = {};
      for (int64_t i = 0; i < p.parts; ++i) {
        sum += Float<sum_t>::load(from + i * p.part_stride + c, part);
      }
      F::store(to + c, sum, part);
    });
  }
}

// Sums of 32 rows first, so that rounding does not grow with the batch.
template <class F, int vectors, class Part>
void column_sums_of(const ScColumnSums& p, int64_t c, Part part) {
  using sum_t = typename F::sum_t;
  const auto* from = static_cast<const typename F::raw_t*>(p.from) + c;
  auto* to = static_cast<typename F::raw_t*>(p.to) + c;
  Vector<sum_t> total[vectors] = {};
  for (int64_t begin = 0; begin < p.rows; begin += 32) {
    const int64_t end = begin + 32 < p.rows ? begin + 32 : p.rows;
    Vector<sum_t> sums[vectors] = {};
    for (int64_t r = begin; r < end; ++r) {
      for (int v = 0; v < vectors; ++v) {
        sums[v] += F::load(from + r * p.from_stride + v * kLanes<sum_t>, part);
      }
    }
    for (int v = 0; v < vectors; ++v) total[v] += sums[v];
  }
  for (int v = 0; v < vectors; ++v) F::store(to + v * kLanes<sum_t>, total[v], part);
}

template <class F>
void all_column_sums_of(const ScColumnSums& p) {
  constexpr int64_t kStep = 8 * kLanes<typename F::sum_t>;
  int64_t c = 0;
  for (; c + kStep <= p.columns; c += kStep) column_sums_of<F, 8>(p, c, All{});
  for_vectors<typename F::sum_t>(
      p.columns - c, [&](int64_t i, auto part) { column_sums_of<F, 1>(p, c + i, part); });
}

void pack(FloatFormat format, const ScPack& p) {
  for_format(format, [&](auto f) {
    p.transposed ? pack_transposed<decltype(f)>(p) : pack_rows<decltype(f)>(p);
  });
}

void dots(FloatFormat format, const ScDots& d) {
  for_format(format, [&](auto f) { dots_of<decltype(f)>(d); });
}

void outer(FloatFormat format, const ScOuter& o) {
  if (format == FloatFormat::kFloat64) return outer_of<double>(o);
  outer_of<float>(o);
}

void column_sums(FloatFormat format, const ScColumnSums& p) {
  for_format(format, [&](auto f) { all_column_sums_of<decltype(f)>(p); });
}

void reduce(FloatFormat format, const ScReduce& p) {
  for_format(format, [&](auto f) { reduce_of<decltype(f)>(p); });
}

}  // namespace
}  // namespace fastheads
