// sc_linear with AVX-512.
#include "sc_linear_kernel.h"

#ifdef __AVX512F__
namespace fastheads {

const ScKernels sc_linear_avx512 = {pack,        dots,        lanes,        outer, reduce,
                                    column_sums, kPanelBytes, kVectorBytes, false};

}  // namespace fastheads
#endif
