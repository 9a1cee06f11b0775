// The loops of squeeze_excite with AVX-512 (F, BW, DQ and VL).
#include "squeeze_excite_loops.h"

#ifdef __AVX512F__
namespace fastheads {

ExciteKernels<float> excite_kernels_avx512(FloatFormat maps, FloatFormat weights) {
  return kernels_of(maps, weights);
}

}  // namespace fastheads
#endif
