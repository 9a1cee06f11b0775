// csr_matmul for any processor.
#include "csr_matmul_kernel.h"

namespace fastheads {

int64_t multiply_rows_plain(const CsrProduct& product, int64_t begin, int64_t end) {
  return multiply_rows<16>(product, begin, end);
}

}  // namespace fastheads
