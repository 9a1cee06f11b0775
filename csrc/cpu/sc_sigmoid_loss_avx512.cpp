// sc_sigmoid_loss with AVX-512.
#include "sc_sigmoid_loss_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

SigmoidSums sc_sigmoid_loss_avx512(FloatFormat format, const SigmoidSegment& segment) {
  return segment_of(format, segment);
}

}  // namespace fastheads
#endif
