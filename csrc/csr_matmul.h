// csr_matmul: y[i, b] = sum_e values[e] x[col_indices[e], b], e from crow_indices[i] to
// crow_indices[i + 1]: a sparse matrix times a block of vectors.
#pragma once

#include "common.h"

namespace fastheads {

struct CsrMatmulShape {
  int64_t rows;    // M
  int64_t labels;  // L
  int64_t width;   // B
  int64_t nonzeros;
};

inline CsrMatmulShape check_csr_matmul(const Tensor& crow, const Tensor& col, const Tensor& values,
                                       const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, "csr_matmul: x must be [L, B], got ", x.dim(), " dimensions");
  const auto dtype = x.scalar_type(), index = crow.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "csr_matmul: x must be float32 or float64, got ",
                  torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(crow.dim() == 1 && crow.size(0) >= 1,
                  "csr_matmul: crow_indices must be [M + 1], got ", crow.dim(), " dimensions of ",
                  crow.numel(), " entries");
  STD_TORCH_CHECK(index == ScalarType::Int || index == ScalarType::Long,
                  "csr_matmul: crow_indices must be int32 or int64, got ",
                  torch::headeronly::toString(index));
  STD_TORCH_CHECK(col.dim() == 1 && col.scalar_type() == index,
                  "csr_matmul: col_indices must be [nonzeros] in the dtype of crow_indices, got ",
                  col.dim(), " dimensions of ", torch::headeronly::toString(col.scalar_type()));
  STD_TORCH_CHECK(values.dim() == 1 && values.scalar_type() == dtype,
                  "csr_matmul: values must be [nonzeros] in the dtype of x, got ", values.dim(),
                  " dimensions of ", torch::headeronly::toString(values.scalar_type()));
  STD_TORCH_CHECK(values.size(0) == col.size(0), "csr_matmul: values must have the ", col.size(0),
                  " entries of col_indices, got ", values.size(0));
  STD_TORCH_CHECK(
      crow.device() == x.device() && col.device() == x.device() && values.device() == x.device(),
      "csr_matmul: crow_indices, col_indices and values must be on the device of x");
  STD_TORCH_CHECK(index == ScalarType::Long || x.size(0) <= INT32_MAX,
                  "csr_matmul: x must have at most 2^31 - 1 rows with int32 indices, got ",
                  x.size(0));
  return {crow.size(0) - 1, x.size(0), x.size(1), col.size(0)};
}

}  // namespace fastheads
