// gated_residual with AVX-512.
#include "gated_residual_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

const GatedResidualKernels gated_residual_avx512 = {forward, backward, scatter};

}  // namespace fastheads
#endif
