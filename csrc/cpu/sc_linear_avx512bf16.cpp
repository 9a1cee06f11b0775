// sc_linear with AVX-512 and its products of pairs of bfloat16.
#include "sc_linear_kernel.h"

#ifdef __AVX512BF16__
namespace fastheads {

const ScKernels sc_linear_avx512bf16 = {pack,        dots,        lanes,        outer, reduce,
                                        column_sums, kPanelBytes, kVectorBytes, true};

}  // namespace fastheads
#endif
