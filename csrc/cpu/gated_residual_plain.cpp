// gated_residual for any processor.
#include "gated_residual_kernel.h"

namespace fastheads {

const GatedResidualKernels gated_residual_plain = {forward, backward, scatter};

}  // namespace fastheads
