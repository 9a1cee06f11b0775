// The loops of squeeze_excite with AVX2, FMA and F16C.
#include "squeeze_excite_loops.h"

#ifdef __AVX2__
namespace fastheads {

ExciteKernels<float> excite_kernels_avx2(FloatFormat maps, FloatFormat weights) {
  return kernels_of(maps, weights);
}

}  // namespace fastheads
#endif
