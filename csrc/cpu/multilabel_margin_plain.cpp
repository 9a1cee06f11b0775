// multilabel_margin for any processor.
#include "multilabel_margin_kernel.h"

namespace fastheads {

double multilabel_margin_plain(FloatFormat format, const MarginRow& row) {
  return margin_of(format, row);
}

}  // namespace fastheads
