// sc_linear on sm_90a: gradient of x, tiles of 128 rows and 256 inputs.
#include "sc_linear_cutlass.cuh"

FASTHEADS_GROUPED_KERNELS(kGradX)
