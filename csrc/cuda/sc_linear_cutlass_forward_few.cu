// sc_linear on sm_90a: tiles of 128 labels and 64 rows.
#include "sc_linear_cutlass.cuh"

FASTHEADS_GROUPED_KERNELS(kForwardFew)
