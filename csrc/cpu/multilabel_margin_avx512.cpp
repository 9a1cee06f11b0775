// multilabel_margin with AVX-512.
#include "multilabel_margin_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

double multilabel_margin_avx512(FloatFormat format, const MarginRow& row) {
  return margin_of(format, row);
}

}  // namespace fastheads
#endif
