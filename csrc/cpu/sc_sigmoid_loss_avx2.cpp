// sc_sigmoid_loss with AVX2.
#include "sc_sigmoid_loss_kernel.h"

#ifdef __AVX2__
namespace fastheads {

SigmoidSums sc_sigmoid_loss_avx2(FloatFormat format, const SigmoidSegment& segment) {
  return segment_of(format, segment);
}

}  // namespace fastheads
#endif
