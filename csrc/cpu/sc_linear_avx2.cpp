// sc_linear with AVX2.
#include "sc_linear_kernel.h"

#ifdef __AVX2__
namespace fastheads {

const ScKernels sc_linear_avx2 = {pack,        dots,        lanes,        outer, reduce,
                                  column_sums, kPanelBytes, kVectorBytes, false};

}  // namespace fastheads
#endif
