// gated_residual with AVX2.
#include "gated_residual_kernel.h"

#ifdef __AVX2__
namespace fastheads {

const GatedResidualKernels gated_residual_avx2 = {forward, backward, scatter};

}  // namespace fastheads
#endif
