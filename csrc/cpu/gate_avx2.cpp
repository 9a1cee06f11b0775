// The gate with AVX2.
#include "gate_kernel.h"

#ifdef __AVX2__
namespace fastheads {

const GateKernels gate_avx2 = {pool, layers};

}  // namespace fastheads
#endif
