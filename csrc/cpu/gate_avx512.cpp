// The gate with AVX-512.
#include "gate_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

const GateKernels gate_avx512 = {pool, layers};

}  // namespace fastheads
#endif
