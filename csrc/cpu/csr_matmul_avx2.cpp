// csr_matmul for AVX2 and FMA.
#include "csr_matmul_kernel.h"

#ifdef __AVX2__
namespace fastheads {

int64_t multiply_rows_avx2(const CsrProduct& product, int64_t begin, int64_t end) {
  return multiply_rows<32>(product, begin, end);
}

}  // namespace fastheads
#endif
