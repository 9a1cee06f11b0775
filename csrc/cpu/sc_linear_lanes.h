// The forward product of sc_linear with a row of the batch in each lane: a weight meets whole
// vectors of rows, so no sum goes across lanes. Included by one file an instruction set; everything
// is local to it.
#pragma once

#include "sc_linear_rows.h"
#include "transpose.h"

namespace fastheads {
namespace {

constexpr int kPanelVectors = kVectorBytes == 64 ? 4 : 2;  // of rows
constexpr int kPanelLabels = 48;                           // whole blocks, and whole vectors
constexpr int kPanelBytes = kPanelVectors * kVectorBytes;

// Labels of a block: their sums fill the registers, and none waits for the one before.
constexpr int block_labels(int vectors) {
  if (kPanelVectors == 4) return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 8;
  return vectors == 2 ? 6 : 12;
}

// to[column, row] of some rows, a square at a time; the last vector of rows ends with zeros.
template <class F>
void pack_transposed(const ScPack& p) {
  using sum_t = typename F::sum_t;
  constexpr int64_t kSize = kLanes<sum_t>;
  const auto* from = static_cast<const typename F::raw_t*>(p.from);
  auto* to = static_cast<sum_t*>(p.to);
  for (int64_t begin = 0; begin < p.rows; begin += kSize) {
    const int64_t rows = p.rows - begin < kSize ? p.rows - begin : kSize;
    const typename F::raw_t* row[kSize];
    for (int64_t r = 0; r < rows; ++r) {
      row[r] = from + (p.picked != nullptr ? p.picked[begin + r] : begin + r) * p.from_stride;
    }
    for_vectors<sum_t>(p.columns, [&](int64_t c, auto part) {
      Vector<sum_t> square[kSize] = {};
      for (int64_t r = 0; r < rows; ++r) {
        square[r] = F::load(row[r] + c, part);
        __builtin_prefetch(row[r] + c + p.ahead, 0, 2);
      }
      transpose<sum_t>(square);
      const int64_t columns = p.columns - c < kSize ? p.columns - c : kSize;
      for (int64_t i = 0; i < columns; ++i) {
        write(to + (c + i) * p.to_stride + begin, square[i], All{});
      }
    });
  }
}

// sums[label, lane of rows] of a block of labels and the first vectors of a panel of x. The weights
// of the next block are fetched meanwhile, or none. Of some columns first, so that rounding does
// not grow with all of them.
template <class F, int vectors>
void lanes_block(const ScDots& d, const typename F::raw_t* w, const typename F::sum_t* x,
                 int64_t labels, const typename F::raw_t* ahead, typename F::sum_t* sums) {
  using sum_t = typename F::sum_t;
  using V = Vector<sum_t>;
  constexpr int kLabels = block_labels(vectors);
  constexpr int64_t kColumns = 256, kPanel = kPanelBytes / sizeof(sum_t);
  int64_t at[kLabels];  // the last label again where there are fewer
  for (int l = 0; l < kLabels; ++l) at[l] = (l < labels ? l : labels - 1) * d.width;
  for (int64_t first = 0; first < d.width; first += kColumns) {
    const int64_t columns = d.width - first < kColumns ? d.width - first : kColumns;
    V acc[kLabels][vectors] = {};
    for_vectors<sum_t>(columns, [&](int64_t i, auto part) {
      const int64_t begin = first + i;
      if (ahead != nullptr) {
        for (int l = 0; l < kLabels; ++l) __builtin_prefetch(ahead + l * d.width + begin);
      }
      // On the stack, where all weights are near one address: there are not enough registers for
      // the addresses of the labels.
      alignas(64) sum_t weights[kLabels][kLanes<sum_t>];
      for (int l = 0; l < kLabels; ++l) write(weights[l], F::load(w + at[l] + begin, part), All{});
      const auto column = [&](int64_t k) {
        V rows[vectors];
        for (int v = 0; v < vectors; ++v) {
          rows[v] = read<V>(x + ((begin + k) * vectors + v) * kLanes<sum_t>, All{});
        }
        for (int l = 0; l < kLabels; ++l) {
          for (int v = 0; v < vectors; ++v) acc[l][v] += rows[v] * weights[l][k];
        }
      };
      if constexpr (std::is_same_v<decltype(part), Some>) {
        for (int64_t k = 0; k < part.count; ++k) column(k);
      } else {
        for (int64_t k = 0; k < kLanes<sum_t>; ++k) column(k);
      }
    });
    for (int l = 0; l < kLabels; ++l) {
      for (int v = 0; v < vectors; ++v) {
        sum_t* sum = sums + l * kPanel + v * kLanes<sum_t>;
        write(sum, first > 0 ? read<V>(sum, All{}) + acc[l][v] : acc[l][v], All{});
      }
    }
  }
}

// Rows of y from sums[label, row].
template <class F>
void store_lanes(const ScDots& d, int64_t label, int64_t labels, int64_t row, int64_t rows,
                 const typename F::sum_t* sums) {
  using sum_t = typename F::sum_t;
  constexpr int64_t kSize = kLanes<sum_t>, kPanel = kPanelBytes / sizeof(sum_t);
  const auto* bias = static_cast<const typename F::raw_t*>(d.bias) + label;
  for_vectors<sum_t>(labels, [&](int64_t l, auto part) {
    const Vector<sum_t> add = d.bias != nullptr ? F::load(bias + l, part) : Vector<sum_t>{};
    for (int64_t r = 0; r < rows; r += kSize) {
      Vector<sum_t> square[kSize];
      for (int64_t i = 0; i < kSize; ++i) {
        square[i] = read<Vector<sum_t>>(sums + (l + i) * kPanel + r, All{});
      }
      transpose<sum_t>(square);
      for (int64_t i = 0; i < kSize && r + i < rows; ++i) {
        auto* y = static_cast<typename F::raw_t*>(d.y) + d.y_begins[row + r + i] + label + l;
        Vector<sum_t> v = square[i] + add;
        if (d.accumulate) v += F::load(y, part);
        F::store(y, v, part);
      }
    }
  });
}

// What is written next.
template <class F>
void fetch_lines(const ScDots& d, int64_t label, int64_t labels, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / sizeof(typename F::raw_t);
  for (int64_t r = begin; r < end; ++r) {
    const auto* y = static_cast<const typename F::raw_t*>(d.y) + d.y_begins[r] + label;
    for (int64_t l = 0; l < labels; l += kLine) __builtin_prefetch(y + l, 1);
    __builtin_prefetch(y + labels - 1, 1);
  }
}

template <class F>
void lanes_of(const ScDots& d) {
  using sum_t = typename F::sum_t;
  constexpr int64_t kPanel = kPanelBytes / sizeof(sum_t);
  const auto* weight = static_cast<const typename F::raw_t*>(d.w);
  alignas(64) sum_t sums[kPanelLabels * kPanel];
  for (int64_t first = 0; first < d.labels; first += kPanelLabels) {
    const int64_t labels = d.labels - first < kPanelLabels ? d.labels - first : kPanelLabels;
    for (int64_t row = 0; row < d.rows; row += kPanel) {
      const int64_t rows = d.rows - row < kPanel ? d.rows - row : kPanel;
      const auto* x = static_cast<const sum_t*>(d.x) + row * d.width;
      for_count<kPanelVectors>((rows + kLanes<sum_t> - 1) / kLanes<sum_t>, [&](auto vectors) {
        constexpr int64_t kBlock = block_labels(vectors);
        for (int64_t l = 0; l < labels; l += kBlock) {
          const auto* w = weight + (first + l) * d.width;
          fetch_lines<F>(d, first, labels, row + l * rows / labels,
                         row + (l + kBlock < labels ? l + kBlock : labels) * rows / labels);
          const bool more = row == 0 && first + l + 2 * kBlock <= d.labels;
          lanes_block<F, vectors>(d, w, x, labels - l, more ? w + kBlock * d.width : nullptr,
                                  sums + l * kPanel);
        }
      });
      store_lanes<F>(d, first, labels, row, rows, sums);
    }
  }
}

void lanes(FloatFormat format, const ScDots& d) {
  for_format(format, [&](auto f) { lanes_of<decltype(f)>(d); });
}

}  // namespace
}  // namespace fastheads
