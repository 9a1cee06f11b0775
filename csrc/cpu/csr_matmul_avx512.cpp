// csr_matmul for AVX-512.
#include "csr_matmul_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

int64_t multiply_rows_avx512(const CsrProduct& product, int64_t begin, int64_t end) {
  return multiply_rows<64>(product, begin, end);
}

}  // namespace fastheads
#endif
