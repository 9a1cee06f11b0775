// sc_linear on sm_90a: tiles of 128 rows and 128 labels.
#include "sc_linear_cutlass.cuh"

FASTHEADS_GROUPED_KERNELS(kForward)
