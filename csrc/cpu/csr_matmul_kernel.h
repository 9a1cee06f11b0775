// Rows of a sparse matrix times a block of vectors: the sums of a row stay in registers, and the
// rows of x are asked for ahead. Included by one file an instruction set; everything is local to
// it, so that no function compiled for AVX-512 can be linked into the code that runs everywhere.
#pragma once

#include <type_traits>

#include "csr_matmul_rows.h"

namespace fastheads {
namespace {

// Nonzeros between asking for a row of x and its use. Asking for a wrong address does no harm.
constexpr int64_t kAhead = 32;

template <typename value_t, typename index_t>
struct Csr {
  const index_t* crow;    // [M + 1]
  const index_t* col;     // [nonzeros]
  const value_t* values;  // [nonzeros]
  const value_t* x;       // [L, B]
  value_t* y;             // [M, B]
  int64_t labels, width, nonzeros;

  // Whether the columns of nonzeros begin to end are labels; negative ones are large as unsigned.
  bool has_labels(int64_t begin, int64_t end) const {
    using unsigned_t = std::make_unsigned_t<index_t>;
    unsigned_t largest = 0;
    for (int64_t e = begin; e < end; ++e) {
      const auto column = static_cast<unsigned_t>(col[e]);
      largest = column > largest ? column : largest;
    }
    return begin == end || largest < static_cast<uint64_t>(labels);
  }
};

// y[i, column[v] + lane] for kVectors vectors of columns. Even and odd nonzeros are summed apart:
// one chain of dependent additions would wait for itself.
template <typename Vector, int kVectors, typename value_t, typename index_t>
void multiply(const Csr<value_t, index_t>& a, int64_t i, const int64_t* column) {
  Vector even[kVectors] = {}, odd[kVectors] = {};
  const auto add = [&](Vector* sum, int64_t e) {
    const int64_t ahead = e + kAhead < a.nonzeros ? e + kAhead : a.nonzeros - 1;
    const value_t* next = a.x + a.col[ahead] * a.width;
    for (int v = 0; v < kVectors; v += sizeof(Vector) < 64 ? 64 / sizeof(Vector) : 1) {
      __builtin_prefetch(next + column[v]);
    }
    const value_t* row = a.x + a.col[e] * a.width;
    for (int v = 0; v < kVectors; ++v) {
      Vector part;
      __builtin_memcpy(&part, row + column[v], sizeof(part));
      sum[v] += a.values[e] * part;
    }
  };
  const int64_t end = a.crow[i + 1];
  int64_t e = a.crow[i];
  for (; e + 1 < end; e += 2) {
    add(even, e);
    add(odd, e + 1);
  }
  if (e < end) add(even, e);
  for (int v = 0; v < kVectors; ++v) {
    const Vector sum = even[v] + odd[v];
    __builtin_memcpy(a.y + i * a.width + column[v], &sum, sizeof(sum));
  }
}

// A row in groups of four vectors. The last vector ends where the row ends: it may compute some of
// the columns before it once more, to the same bits.
template <typename Vector, typename value_t, typename index_t>
void multiply_row(const Csr<value_t, index_t>& a, int64_t i) {
  constexpr int64_t kLanes = sizeof(Vector) / sizeof(value_t);
  for (int64_t first = 0; first < a.width; first += 4 * kLanes) {
    int64_t column[4];
    for (int v = 0; v < 4; ++v) {
      const int64_t c = first + v * kLanes;
      column[v] = c < a.width - kLanes ? c : a.width - kLanes;
    }
    const int64_t vectors = (a.width - first + kLanes - 1) / kLanes;
    if (vectors == 1) {
      multiply<Vector, 1>(a, i, column);
    } else if (vectors == 2) {
      multiply<Vector, 2>(a, i, column);
    } else if (vectors == 3) {
      multiply<Vector, 3>(a, i, column);
    } else {
      multiply<Vector, 4>(a, i, column);
    }
  }
}

// A row times a single vector, which the cache holds: nothing is asked for ahead.
template <typename value_t, typename index_t>
void multiply_vector(const Csr<value_t, index_t>& a, int64_t i) {
  constexpr int kSums = 8;
  value_t sum[kSums] = {};
  const int64_t end = a.crow[i + 1];
  int64_t e = a.crow[i];
  for (; e + kSums <= end; e += kSums) {
    for (int s = 0; s < kSums; ++s) sum[s] += a.values[e + s] * a.x[a.col[e + s]];
  }
  for (; e < end; ++e) sum[0] += a.values[e] * a.x[a.col[e]];
  a.y[i] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

template <typename Vector, typename value_t, typename index_t>
int64_t multiply_rows(const Csr<value_t, index_t>& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (!a.has_labels(a.crow[i], a.crow[i + 1])) return i;
    if (a.width == 1) {
      multiply_vector(a, i);
    } else {
      multiply_row<Vector>(a, i);
    }
  }
  return end;
}

// In the widest vectors, up to kBytes, that are no wider than a row of x.
template <int kBytes, typename value_t, typename index_t>
int64_t multiply_rows_of(const CsrProduct& p, int64_t begin, int64_t end) {
  typedef value_t Vector __attribute__((vector_size(kBytes)));
  const auto* col = static_cast<const index_t*>(p.col);
  const auto* values = static_cast<const value_t*>(p.values);
  const Csr<value_t, index_t> a{
      static_cast<const index_t*>(p.crow), col,      values,  static_cast<const value_t*>(p.x),
      static_cast<value_t*>(p.y),          p.labels, p.width, p.nonzeros};
  if (p.width * static_cast<int64_t>(sizeof(value_t)) >= kBytes) {
    return multiply_rows<Vector>(a, begin, end);
  }
  if constexpr (kBytes > 16) return multiply_rows_of<kBytes / 2, value_t, index_t>(p, begin, end);
  return multiply_rows<value_t>(a, begin, end);
}

template <int kBytes>
int64_t multiply_rows(const CsrProduct& p, int64_t begin, int64_t end) {
  const auto multiply = p.doubles ? p.long_indices ? multiply_rows_of<kBytes, double, int64_t>
                                                   : multiply_rows_of<kBytes, double, int32_t>
                        : p.long_indices ? multiply_rows_of<kBytes, float, int64_t>
                                         : multiply_rows_of<kBytes, float, int32_t>;
  return multiply(p, begin, end);
}

}  // namespace
}  // namespace fastheads
