// multilabel_margin with AVX2.
#include "multilabel_margin_kernel.h"

#ifdef __AVX2__
namespace fastheads {

double multilabel_margin_avx2(FloatFormat format, const MarginRow& row) {
  return margin_of(format, row);
}

}  // namespace fastheads
#endif
