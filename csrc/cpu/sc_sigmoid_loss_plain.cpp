// sc_sigmoid_loss for any processor.
#include "sc_sigmoid_loss_kernel.h"

namespace fastheads {

SigmoidSums sc_sigmoid_loss_plain(FloatFormat format, const SigmoidSegment& segment) {
  return segment_of(format, segment);
}

}  // namespace fastheads
