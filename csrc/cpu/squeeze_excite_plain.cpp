// The loops of squeeze_excite for any processor.
#include "squeeze_excite_loops.h"

namespace fastheads {

ExciteKernels<float> excite_kernels_plain(FloatFormat maps, FloatFormat weights) {
  return kernels_of(maps, weights);
}

ExciteKernels<double> excite_kernels_float64() {
  return kernels_of<Float64, Float64>();
}

}  // namespace fastheads
