// sc_linear on sm_90a: gradient of the weight, tiles of 128 labels and 256 inputs.
#include "sc_linear_cutlass.cuh"

FASTHEADS_GROUPED_KERNELS(kGradWeight)
