// csr_matmul on the CPU: the rows are shared out by their nonzeros.
#include "../csr_matmul.h"

#include <algorithm>
#include <atomic>

#include "allocate.h"
#include "csr_matmul_rows.h"
#include "dispatch.h"

namespace fastheads {
namespace {

MultiplyRows* multiply_rows_here() {
#ifdef __x86_64__
  if (isa_here() == Isa::kAvx512) return multiply_rows_avx512;
  if (isa_here() == Isa::kAvx2) return multiply_rows_avx2;
#endif
  return multiply_rows_plain;
}

template <typename index_t>
void check_crow(const index_t* crow, const CsrMatmulShape& shape) {
  for (int64_t i = 0; i <= shape.rows; ++i) {
    const int64_t low = i == 0 ? 0 : crow[i - 1], high = i == 0 ? 0 : shape.nonzeros;
    STD_TORCH_CHECK(
        crow[i] >= low && crow[i] <= high && (i < shape.rows || crow[i] == shape.nonzeros),
        "csr_matmul: crow_indices must ascend from 0 to the ", shape.nonzeros, " nonzeros, got ",
        static_cast<int64_t>(crow[i]), " at ", i);
  }
}

template <typename index_t>
[[noreturn]] void reject_column(const index_t* crow, const index_t* col, int64_t row,
                                int64_t labels) {
  int64_t e = crow[row];
  while (col[e] >= 0 && col[e] < labels) ++e;
  STD_TORCH_CHECK(false, "csr_matmul: col_indices must be from 0 to ", labels - 1,
                  ", one less than the rows of x, got ", static_cast<int64_t>(col[e]), " in row ",
                  row);
  __builtin_unreachable();
}

template <typename index_t>
void multiply(const CsrProduct& product, const CsrMatmulShape& shape) {
  static MultiplyRows* const multiply_rows = multiply_rows_here();
  const auto* crow = static_cast<const index_t*>(product.crow);
  check_crow(crow, shape);
  // A row weighs its nonzeros and one more, so row i begins at weight crow[i] + i.
  const auto row_at = [&](int64_t weight) {
    int64_t low = 0, high = shape.rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (crow[middle] + middle < weight) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  std::atomic<int64_t> first_bad = shape.rows;
  const int64_t grain = std::max<int64_t>(1, 32768 / shape.width);
  torch::stable::parallel_for(
      0, shape.nonzeros + shape.rows, grain, [&](int64_t begin, int64_t end) {
        const int64_t last = row_at(end), row = multiply_rows(product, row_at(begin), last);
        int64_t first = first_bad;
        while (row < last && row < first && !first_bad.compare_exchange_weak(first, row)) {
        }
      });
  if (first_bad < shape.rows) {
    reject_column(crow, static_cast<const index_t*>(product.col), first_bad, shape.labels);
  }
}

Tensor csr_matmul(const Tensor& crow_, const Tensor& col_, const Tensor& values_,
                  const Tensor& x_) {
  const auto shape = check_csr_matmul(crow_, col_, values_, x_);
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  const Tensor values = torch::stable::contiguous(values_), x = torch::stable::contiguous(x_);
  Tensor y = empty<2>({shape.rows, shape.width}, x.scalar_type());
  if (y.numel() == 0) return y;

  const bool long_indices = crow.scalar_type() == ScalarType::Long;
  const CsrProduct product{
      crow.const_data_ptr(), col.const_data_ptr(), values.const_data_ptr(),
      x.const_data_ptr(),    y.mutable_data_ptr(), shape.labels,
      shape.width,           shape.nonzeros,       x.scalar_type() == ScalarType::Double,
      long_indices};
  if (long_indices) {
    multiply<int64_t>(product, shape);
  } else {
    multiply<int32_t>(product, shape);
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("csr_matmul", TORCH_BOX(&csr_matmul));
}

}  // namespace fastheads
