// The gate for any processor.
#include "gate_kernel.h"

namespace fastheads {

const GateKernels gate_plain = {pool, layers};

}  // namespace fastheads
